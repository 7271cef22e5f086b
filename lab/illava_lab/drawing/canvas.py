"""Draw things at places that do not overlap, and measure the share of the image that each covers."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .glyphs import SHAPES, shape_mask

COLOURS = {
    "red": (220, 35, 35),
    "green": (40, 165, 60),
    "blue": (40, 75, 225),
    "yellow": (240, 215, 25),
    "purple": (125, 40, 165),
    "orange": (250, 135, 20),
    "pink": (250, 135, 195),
    "cyan": (35, 205, 220),
}
SIDE = 192  # pixels: 144 visual tokens in the zoo's models
SMALL = 0.03  # share of the picture below which a thing counts as small
GAP = 4  # pixels between things

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom exclusive
Thing = tuple[str, str]  # shape, colour


class Canvas:
    """A square image to paint on, with a tinted, light or dark background with a slight gradient.

    ``pixels`` is float32 (side, side, 3) in 0..255, ``ink`` an RGB near-white or near-black that stands out.
    """

    def __init__(self, rng: np.random.Generator, side: int = SIDE):
        dark = rng.random() < 0.4
        self.side = side
        tint = rng.uniform(*((15, 60) if dark else (195, 245))) + rng.uniform(-12, 12, 3)
        down, across = rng.uniform(-25, 25, 2)[:, None] * (np.arange(side) / side - 0.5)
        slope = down[:, None] + across
        self.pixels = (slope[..., None] + tint).astype(np.float32)
        self.ink = rng.uniform(*((185, 215) if dark else (0, 30))) + rng.uniform(0, 40, 3)
        self.noise = np.float32(rng.uniform(1, 7))

    def paint(self, mask: np.ndarray, place: tuple[int, int], colour: np.ndarray) -> float:
        """Blend ``colour`` through ``mask`` at ``place`` (left, top); returns the share it covers."""
        (left, top), (height, width) = place, mask.shape
        region = self.pixels[top : top + height, left : left + width]
        region += mask[..., None] * (colour.astype(np.float32) - region)
        return float(mask.sum()) / self.side**2

    def picture(self, rng: np.random.Generator) -> Image.Image:
        """Return the image painted so far, with new noise."""
        noisy = rng.standard_normal(self.pixels.shape, np.float32)
        noisy *= self.noise
        noisy += self.pixels
        return Image.fromarray(np.clip(noisy, 0, 255, out=noisy).astype(np.uint8))


def tone(rng: np.random.Generator, colour: str) -> np.ndarray:
    """Return a slight variation of a named colour, RGB in 0..255."""
    return np.clip(np.array(COLOURS[colour]) + rng.uniform(-14, 14, 3), 0, 255)


def layout(
    rng: np.random.Generator, sizes: Sequence[tuple[int, int]], side: int = SIDE, taken: Sequence[Box] = ()
) -> list[tuple[int, int]]:
    """Return a (left, top) for every (width, height), all ``GAP`` apart from each other and from ``taken``.

    Starts over if one does not fit, so that sizes do not depend on how crowded the image is. Raises
    ValueError after 500 attempts.
    """
    for _ in range(500):
        boxes = list(taken)
        for width, height in sizes:
            places = rng.integers(1, (side - width, side - height), (40, 2)).tolist()
            free = (place for place in places if is_free(place, width, height, boxes))
            place = next(free, None)
            if place is None:
                break
            boxes.append((place[0], place[1], place[0] + width, place[1] + height))
        else:
            return [(box[0], box[1]) for box in boxes[len(taken) :]]
    raise ValueError(f"{len(sizes)} things do not fit into {side} x {side} pixels")


def is_free(place: Sequence[int], width: int, height: int, boxes: Sequence[Box]) -> bool:
    """Whether a box of this size at ``place`` (left, top) keeps ``GAP`` pixels from all ``boxes``."""
    left, top = place
    return all(
        left >= box[2] + GAP or left + width + GAP <= box[0]
        or top >= box[3] + GAP or top + height + GAP <= box[1]
        for box in boxes
    )  # fmt: skip


def scatter(
    canvas: Canvas,
    rng: np.random.Generator,
    things: Sequence[Thing],
    sizes: Sequence[int],
    taken: Sequence[Box] = (),
) -> list[float]:
    """Paint ``things`` of these sizes in pixels anywhere but on ``taken``; returns the share each covers."""
    places = layout(rng, [(size, size) for size in sizes], canvas.side, taken)
    return [
        canvas.paint(shape_mask(shape, size, rng.uniform(-0.2, 0.2)), place, tone(rng, colour))
        for (shape, colour), size, place in zip(things, sizes, places, strict=True)
    ]


def crowd(rng: np.random.Generator) -> np.ndarray:
    """Return the sizes of an image's things: 3 to 7 small or 2 to 4 large ones.

    Sizes are similar, so that the thing in question does not stand out.
    """
    if rng.random() < 0.5:
        return rng.integers(20, 31, rng.integers(3, 8))
    return rng.integers(40, 55, rng.integers(2, 5))


def any_thing(rng: np.random.Generator, *, shapes_but: str = "", colours_but: str = "") -> Thing:
    """Return a random (shape, colour) with neither this shape nor this colour."""
    shape = rng.choice([shape for shape in SHAPES if shape != shapes_but])
    colour = rng.choice([colour for colour in COLOURS if colour != colours_but])
    return str(shape), str(colour)


def other_than(rng: np.random.Generator, thing: Thing) -> Thing:
    """Return a random (shape, colour) that may share one with ``thing``, but not both."""
    while True:
        other = any_thing(rng)
        if other != thing:
            return other


def with_or_without(rng: np.random.Generator, thing: Thing, there: bool) -> list[Thing]:
    """Return two things, the first of which is ``thing`` if it is to be ``there``.

    In both cases they have the same two shapes and two colours; only the combination differs.
    """
    other = any_thing(rng, shapes_but=thing[0], colours_but=thing[1])
    return [thing, other] if there else [(thing[0], other[1]), (other[0], thing[1])]


def indefinite(thing: str) -> str:
    """``thing`` with its indefinite article."""
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"
