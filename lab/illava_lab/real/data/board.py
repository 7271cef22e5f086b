"""The stream ``board``: small photographs scattered over a background."""

from __future__ import annotations

from math import hypot, sqrt
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from ...drawing import canvas
from . import photographs as ph
from . import several
from .scene import Ask, Draw, Drawing, distinct, is_small, pick
from .several import Album, Thing

SIDE = 448  # pixels of the picture
SHARES = (0.012, 0.029)  # of the picture's area, the range of each photograph
MOST = 9
CORNERS = {
    "top left": (0, 0),
    "top right": (SIDE, 0),
    "bottom left": (0, SIDE),
    "bottom right": (SIDE, SIDE),
}
CLEAR = 0.08  # share of the side by which a centre must be off a line for its side to be asked about
NEARER = 1.3  # times farther from a corner is every other photograph than the nearest


def draw(split: str, folder: Path) -> Draw:
    """Scenes of 1 to 9 photographs that cover 1.2 to 2.9 % each, with up to 21 turns."""

    def drawing(rng: np.random.Generator) -> Drawing:
        behind = ph.choose(rng, split, folder) if rng.random() < 0.5 else None
        but = behind.noun if behind else ""
        count = int(rng.integers(1, MOST + 1))
        photos = several.choose_several(rng, split, folder, count, min(count, 4), but)
        album = scatter(rng, photos, split, folder)
        turns = [
            only(rng, album),
            where(rng, album),
            nearest(rng, album),
            several.how_many(rng, album, "board-count"),
            several.exists(rng, album, "board-exists", but),
            sides(rng, album),
            several.digit(rng, album, "board-digit"),
        ]
        picture = paint(rng, album, behind)
        # As in collage: training alone asks these.
        turns += [ask(rng, album) for ask in (where, nearest, sides) for _ in range(4)]
        turns += [several.exists(rng, album, "board-exists", but) for _ in range(2)]
        return Drawing(picture, distinct(turns))

    return drawing


def scatter(rng: np.random.Generator, photos: list[ph.Photograph], split: str, folder: Path) -> Album:
    """The photographs in their own proportions at places that do not overlap."""
    sizes = []
    for photo in photos:
        width, height = ph.load(photo.path, ph.THUMBNAIL).size
        scale = sqrt(rng.uniform(*SHARES) * SIDE**2 / (width * height))
        sizes.append((int(width * scale), int(height * scale)))
    places = canvas.layout(rng, sizes, SIDE)
    things = tuple(
        Thing(photo, (left, top, left + width, top + height))
        for photo, (left, top), (width, height) in zip(photos, places, sizes, strict=True)
    )
    return Album(things, (SIDE, SIDE), split, folder)


def paint(rng: np.random.Generator, album: Album, behind: ph.Photograph | None) -> Image.Image:
    """The picture on a plain tinted ground, or on a blurred part of the photograph ``behind``."""
    picture = ground(rng, behind)
    for thing in album.things:
        left, top, right, bottom = (int(edge) for edge in thing.box)
        image = ph.load(thing.photo.path, ph.THUMBNAIL)
        size = (right - left, bottom - top)
        train = album.split == "train"
        picture.paste(
            ph.varied(thing.photo, image, rng, size) if train else ph.fitted(image, size), (left, top)
        )
    return picture


def ground(rng: np.random.Generator, behind: ph.Photograph | None, side: int = SIDE) -> Image.Image:
    """A square background: plain in a random light or dark tint, or a blurred part of a photograph."""
    if behind is None:
        tint = rng.uniform(*((20, 80) if rng.random() < 0.4 else (160, 250))) + rng.uniform(-15, 15, 3)
        red, green, blue = (int(np.clip(value, 0, 255)) for value in tint)
        return Image.new("RGB", (side, side), (red, green, blue))
    image = ph.load(behind.path, ph.THUMBNAIL)
    part = rng.uniform(0.3, 0.6) * min(image.size)
    left, top = (int(rng.integers(length - int(part))) for length in image.size)
    image = image.crop((left, top, left + int(part), top + int(part)))
    image = image.resize((side // 4, side // 4), Image.Resampling.BILINEAR)
    return image.filter(ImageFilter.GaussianBlur(2)).resize((side, side), Image.Resampling.BILINEAR)


def only(rng: np.random.Generator, album: Album) -> Ask | None:
    """What the only photograph shows, if there is one only."""
    if len(album.things) > 1:
        return None
    (thing,) = album.things
    wordings = ("What does the small picture show?", "What is in the small picture?")
    return Ask(wordings, thing.noun, "board-only", is_small([thing.box], album.size), thing.photo.other_nouns)


def where(rng: np.random.Generator, album: Album) -> Ask | None:
    """In which quarter of the picture the only photograph of a thing is, if that is clear for one."""
    found = [(thing, quarter(thing)) for thing in album.unique() if quarter(thing)]
    if not found:
        return None
    thing, answer = found[int(rng.integers(len(found)))]
    picture = ph.the_picture(thing.noun)
    wordings = (f"Where is {picture}?", f"In which part is {picture}?")
    return Ask(wordings, answer, "board-where", is_small([thing.box], album.size))


def quarter(thing: Thing) -> str:
    """The quarter in which the centre of ``thing`` is; "" if it is too near to a line between two."""
    x, y = centre(thing)
    if min(abs(x - SIDE / 2), abs(y - SIDE / 2)) < CLEAR * SIDE:
        return ""
    return f"{'top' if y < SIDE / 2 else 'bottom'} {'left' if x < SIDE / 2 else 'right'}"


def nearest(rng: np.random.Generator, album: Album) -> Ask | None:
    """What is nearest to a corner, if the next one is much farther from it."""
    corner = pick(rng, CORNERS)
    if len(album.things) < 2:
        return None
    x, y = CORNERS[corner]
    away = [hypot(centre(thing)[0] - x, centre(thing)[1] - y) for thing in album.things]
    first, second = np.argsort(away)[:2]
    if away[second] < NEARER * away[first]:
        return None
    thing = album.things[first]
    wordings = (
        f"What is nearest to the {corner} corner?",
        f"Which picture is nearest to the {corner} corner?",
    )
    return Ask(
        wordings, thing.noun, "board-nearest", is_small([thing.box], album.size), thing.photo.other_nouns
    )


def sides(rng: np.random.Generator, album: Album) -> Ask | None:
    """On which side of another thing a thing is, if both occur once and the side is clear."""
    unique = album.unique()
    if len(unique) < 2:
        return None
    first, other = (unique[i] for i in rng.permutation(len(unique))[:2])
    axis = int(rng.integers(2))
    apart = centre(first)[axis] - centre(other)[axis]
    if abs(apart) < CLEAR * SIDE:
        return None
    one, two = (ph.the_picture(thing.noun) for thing in (first, other))
    low, high = (("left of", "right of"), ("above", "below"))[axis]
    wordings = (f"Is {one} {low} or {high} {two}?", f"Is {one} {high} or {low} {two}?")
    answer = (("left", "right"), ("above", "below"))[axis][apart > 0]
    return Ask(wordings, answer, "board-sides", is_small([first.box, other.box], album.size))


def centre(thing: Thing) -> tuple[float, float]:
    """The centre of a thing in pixels."""
    left, top, right, bottom = thing.box
    return (left + right) / 2, (top + bottom) / 2
