"""Text in a picture: fonts by split, lines of text whose boxes are known, and grounds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from illava.errors import InputError

from ...drawing.lettering import FONTS, TRAINING_FAMILIES, typeface
from . import photographs as ph
from .board import ground
from .scene import Box

Colour = tuple[int, int, int]


class Written(NamedTuple):
    """A text that stands in a picture, and its box in pixels.

    It ends with the ink above and below, and at the sides with the space that the font leaves there.
    """

    text: str
    box: Box


def font(rng: np.random.Generator, split: str) -> str:
    """The name of a font; no family occurs in two splits, and all families of training are equally likely."""
    if split == "train":
        family = TRAINING_FAMILIES[int(rng.integers(len(TRAINING_FAMILIES)))]
        return family[int(rng.integers(len(family)))]
    return FONTS[split][int(rng.integers(len(FONTS[split])))]


@lru_cache(maxsize=2048)  # opening a font takes longer than writing with it
def face(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font in a size in pixels. Raises InputError if its package is not installed."""
    try:
        return typeface(name, size)
    except ModuleNotFoundError as error:
        raise InputError(f"training needs the fonts of {error.name}: pip install illava-lab[train]") from None


@lru_cache(maxsize=65536)
def extent(text: str, name: str, size: int) -> tuple[int, int, int, int]:
    """The box of ``text`` written at (0, 0), as :class:`Written` describes it."""
    left, top, right, bottom = face(name, size).getbbox(text)
    return int(left), int(top), int(right), int(bottom)


def fitting(text: str, name: str, size: int, width: float) -> int:
    """A size up to ``size``, at least 6, in which ``text`` is at most ``width`` pixels wide.

    It is even above 20, so that fewer sizes of each font are held in memory.
    """
    size = size if size <= 20 else size // 2 * 2
    wide = extent(text, name, size)[2]
    if wide > width:
        size = max(6, int(size * width / wide))
        size = size if size <= 20 else size // 2 * 2
    while size > 6 and extent(text, name, size)[2] > width:
        size -= 1
    return size


class Pen:
    """Writes on a picture and returns the boxes of what it wrote."""

    def __init__(self, picture: Image.Image):
        self.picture = picture
        self._draw = ImageDraw.Draw(picture)

    def write(
        self, text: str, place: tuple[float, float], name: str, size: int, ink: Colour, anchor: str = "l"
    ) -> Written:
        """Write ``text`` with the top of its line at ``place``.

        Args:
            anchor: "l", "m" or "r": ``place`` is its left end, middle or right end.
        """
        left, top, right, bottom = extent(text, name, size)
        x = place[0] - {"l": 0, "m": (left + right) / 2, "r": right}[anchor]
        x, y = round(x), round(place[1])
        self._draw.text((x, y), text, ink, face(name, size))
        return Written(text, (x + left, y + top, x + right, y + bottom))

    def rule(self, left: float, right: float, y: float, ink: Colour, dashed: bool = False) -> None:
        """A horizontal line, or dashes."""
        ends = (
            [(x, min(x + 5, right)) for x in range(int(left), int(right), 9)] if dashed else [(left, right)]
        )
        for start, end in ends:
            self._draw.line((start, y, end, y), ink)

    def frame(self, box: Box, ink: Colour, fill: Colour | None = None, width: int = 1) -> None:
        """A rectangle."""
        self._draw.rectangle(box, fill, ink, width)

    def cross(self, box: Box, ink: Colour) -> None:
        """A cross from corner to corner."""
        left, top, right, bottom = box
        self._draw.line((left, top, right, bottom), ink, 2)
        self._draw.line((left, bottom, right, top), ink, 2)

    def shape(self, corners: list[tuple[float, float]], ink: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon(corners, ink)


def backdrop(
    rng: np.random.Generator, split: str, folder: Path, size: tuple[int, int], sharp: bool = False
) -> Image.Image:
    """A plain ground, a blurred part of a photograph of ``split``, or with ``sharp`` a whole photograph.

    Whole photographs are of clothing and hand signs: those of shops are full of other writing.
    """
    if sharp and rng.random() < 0.7:
        photo = ph.choose(rng, split, folder, (0.8, 0, 0.2))
        image = ph.load(photo.path)
        return ph.varied(photo, image, rng, size) if split == "train" else ph.fitted(image, size)
    behind = ph.choose(rng, split, folder) if rng.random() < 0.5 else None
    image = ground(rng, behind, max(size))
    return image.crop((0, 0, *size)) if image.size != size else image


def is_busy(image: Image.Image) -> bool:
    """Whether writing on ``image`` would be hard to read: its brightness varies by more than 22 of 255."""
    return bool(np.asarray(image.convert("L"), np.float32).std() > 22)


def contrasting(rng: np.random.Generator, image: Image.Image) -> Colour:
    """A colour that stands out from the mean of ``image``, light on dark or dark on light."""
    mean = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX)).mean()
    low, high = (0, 70) if mean > 120 else (200, 256)
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def paper(rng: np.random.Generator) -> Colour:
    """The colour of a sheet of paper."""
    light = int(rng.integers(225, 256))
    red, green, blue = (int(value) for value in np.clip(light + rng.integers(-10, 6, 3), 0, 255))
    return red, green, blue


def dark(rng: np.random.Generator) -> Colour:
    """The colour of ink on paper."""
    red, green, blue = (int(value) for value in rng.integers(0, 75, 3))
    return red, green, blue
