"""The streams ``collage``, 2 x 2 to 4 x 4 photographs that fill the picture, and ``four``, 2 x 2."""

from __future__ import annotations

from math import isqrt
from pathlib import Path

import numpy as np
from PIL import Image

from . import photographs as ph
from . import several
from .scene import Ask, Draw, Drawing, distinct, is_small, pick
from .several import Album, Thing

SIDE = 448  # pixels of the picture, near the largest that the model sees
GAP = 4  # pixels between photographs
ROWS, TRAINED = (2, 3, 4), (0.5, 0.3, 0.2)
"""Rows of a collage, and how often training has them: places are learnt from few large photographs first."""
MOST_ALIKE = {2: 3, 3: 5, 4: 5}
PLACES = {
    2: ("top left", "top right", "bottom left", "bottom right"),
    3: (
        *("top left", "top middle", "top right"),
        *("middle left", "center", "middle right"),
        *("bottom left", "bottom middle", "bottom right"),
    ),
    4: tuple(f"row {row}, column {column}" for row in range(1, 5) for column in range(1, 5)),
}
"""The names of the places by the number of rows, row by row."""
STEPS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}


def draw(split: str, folder: Path, rows: int | None = None) -> Draw:
    """Scenes of 4, 9 or 16 photographs, or of ``rows`` x ``rows`` only, with up to 31 turns.

    A question costs training a few tokens, a picture hundreds, so every photograph is asked about.
    """

    def drawing(rng: np.random.Generator) -> Drawing:
        count = rows or int(rng.choice(ROWS, p=TRAINED) if split == "train" else rng.integers(2, 5))
        photos = several.choose_several(rng, split, folder, count**2, MOST_ALIKE[count])
        album = layout(photos, count, split, folder)
        turns = [
            what_is_at(rng, album),
            where(rng, album),
            several.how_many(rng, album, "collage-count"),
            several.exists(rng, album, "collage-exists"),
            beside(rng, album),
            several.digit(rng, album, "collage-digit"),
        ]
        picture = paint(rng, album)
        # Tasks ask the first question of a kind and no other, so these come last, and after the picture.
        cells = rng.permutation(len(album.things))
        turns += [what_is_at(rng, album, int(cell)) for cell in cells]
        turns += [ask(rng, album) for ask in (where, beside) for _ in range(3)]
        turns += [several.exists(rng, album, "collage-exists") for _ in range(3)]
        turns.append(everything(album))
        return Drawing(picture, distinct(turns))

    return drawing


def layout(photos: list[ph.Photograph], rows: int, split: str, folder: Path) -> Album:
    """The photographs at their places, row by row."""
    edges = [round(i * (SIDE + GAP) / rows) for i in range(rows + 1)]
    boxes = [
        (edges[column], edges[row], edges[column + 1] - GAP, edges[row + 1] - GAP)
        for row in range(rows)
        for column in range(rows)
    ]
    things = tuple(Thing(photo, box) for photo, box in zip(photos, boxes, strict=True))
    return Album(things, (SIDE, SIDE), split, folder)


def paint(rng: np.random.Generator, album: Album) -> Image.Image:
    """The picture, on a ground of random grey."""
    picture = Image.new("RGB", album.size, (int(rng.integers(256)),) * 3)
    for thing in album.things:
        left, top, right, bottom = (int(edge) for edge in thing.box)
        image = ph.load(thing.photo.path, right - left)
        size = (right - left, bottom - top)
        train = album.split == "train"
        picture.paste(
            ph.varied(thing.photo, image, rng, size) if train else ph.fitted(image, size), (left, top)
        )
    return picture


def what_is_at(rng: np.random.Generator, album: Album, cell: int | None = None) -> Ask:
    """What the photograph at place ``cell`` shows, by default at any place."""
    rows = _rows(album)
    cell = int(rng.integers(rows**2)) if cell is None else cell
    by_number = f"in row {cell // rows + 1}, column {cell % rows + 1}"
    place = PLACES[rows][cell]
    by_name = f"in the {place}" if place == "center" else f"at the {place}"
    named = rows < 4 and rng.random() < 0.5
    at = by_name if named else by_number
    thing = album.things[cell]
    wordings = (f"What is {at}?", f"What does the picture {at} show?")
    return Ask(
        wordings, thing.noun, "collage-place", is_small([thing.box], album.size), thing.photo.other_nouns
    )


def everything(album: Album) -> Ask:
    """What all photographs show: many names for few tokens."""
    wordings = (
        "Name all pictures, row by row.",
        "What do the pictures show, from left to right, row by row?",
    )
    names = ", ".join(thing.noun for thing in album.things)
    return Ask(
        wordings, names, "collage-all", all(is_small([thing.box], album.size) for thing in album.things)
    )


def where(rng: np.random.Generator, album: Album) -> Ask | None:
    """Where the only photograph of a thing is, if there is one."""
    unique = album.unique()
    if not unique:
        return None
    thing = unique[int(rng.integers(len(unique)))]
    picture = ph.the_picture(thing.noun)
    wordings = (f"Where is {picture}?", f"At which place is {picture}?")
    if _rows(album) == 4:
        wordings = (f"In which row and column is {picture}?", f"Give the row and column of {picture}.")
    answer = PLACES[_rows(album)][album.things.index(thing)]
    return Ask(wordings, answer, "collage-where", is_small([thing.box], album.size))


def beside(rng: np.random.Generator, album: Album) -> Ask | None:
    """What is next to the only photograph of a thing in one direction, if there is one."""
    rows, unique = _rows(album), album.unique()
    if not unique:
        return None
    thing = unique[int(rng.integers(len(unique)))]
    row, column = divmod(album.things.index(thing), rows)
    within = {
        name: (row + down) * rows + column + right
        for name, (down, right) in STEPS.items()
        if 0 <= row + down < rows and 0 <= column + right < rows
    }
    name = pick(rng, within)
    other = album.things[within[name]]
    picture = ph.the_picture(thing.noun)
    wordings = (f"What is directly {name} {picture}?", f"Which thing is directly {name} {picture}?")
    small = is_small([thing.box, other.box], album.size)
    return Ask(wordings, other.noun, "collage-beside", small, other.photo.other_nouns)


def _rows(album: Album) -> int:
    return isqrt(len(album.things))
