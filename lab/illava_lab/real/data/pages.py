"""Pictures full of text whose characters are known one by one, for an image encoder that is to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from . import rendering as rd
from . import vocabulary as vb
from .receipts import amount, date
from .scene import Box, pick
from .signs import PANELS

SIZES = (13, 64)
"""Of the type, in pixels of the picture."""
SCATTERED = 6
TRIES = 20


class Character(NamedTuple):
    """A character in a picture; neither spaces nor characters without ink."""

    text: str
    box: Box
    """At the sides from where the character begins to where the next one begins, above and below its ink."""


class Page(NamedTuple):
    """A picture and all characters on it."""

    picture: Image.Image
    characters: tuple[Character, ...]


def page(rng: np.random.Generator, split: str, folder: Path, side: int) -> Page:
    """A square of ``side`` pixels: a sheet or panel with lines of text, or texts here and there."""
    picture = rd.backdrop(rng, split, folder, (side, side), sharp=True)
    written = (sheet if rng.random() < 0.6 else scattered)(rng, picture, split)
    return Page(picture, tuple(one for line in written for one in characters(*line)))


Line = tuple[rd.Written, str, int]
"""A line of text, its font and size."""


def sheet(rng: np.random.Generator, picture: Image.Image, split: str) -> list[Line]:
    """Lines of one font on a sheet or panel, some in two columns."""
    side = picture.width
    left, top = (int(rng.uniform(0, 0.3) * side) for _ in range(2))
    right, bottom = (int(rng.uniform(0.75, 1) * side) for _ in range(2))
    dark = rng.random() < 0.3
    ground = _panel(rng) if dark else rd.paper(rng)
    pen, name = rd.Pen(picture), rd.font(rng, split)
    pen.frame((left, top, right, bottom), ground, ground)
    ink = rd.contrasting(rng, picture.crop((left, top, right, bottom)))
    low, high = SIZES
    usual = np.exp(rng.uniform(np.log(low), np.log(min(high, side / 6))))
    left, right, lines = left + 6, right - 6, []
    middle, columns = rng.random() < 0.3, rng.random() < 0.5
    y = top + usual * rng.uniform(0.1, 1)
    while y < bottom - 1.5 * usual:
        size = max(low, round(usual * rng.uniform(0.85, 1.2)))
        room = right - left
        text, value = any_text(rng, split), any_text(rng, split) if columns and rng.random() < 0.7 else ""
        size = rd.fitting(f"{text}  {value}".strip(), name, size, room)
        if size >= low - 2:
            centred = middle and not value
            place = (left + right) / 2 if centred else left
            lines.append((pen.write(text, (place, y), name, size, ink, "m" if centred else "l"), name, size))
            if value:
                lines.append((pen.write(value, (right, y), name, size, ink, "r"), name, size))
        y += size * rng.uniform(1.15, 1.7)
    return lines


def scattered(rng: np.random.Generator, picture: Image.Image, split: str) -> list[Line]:
    """Up to six texts in different fonts that do not overlap, some of them on a plate."""
    side = picture.width
    pen, lines, taken = rd.Pen(picture), [], []
    low, high = SIZES
    for _ in range(int(rng.integers(2, SCATTERED + 1))):
        text, name = any_text(rng, split), rd.font(rng, split)
        size = rd.fitting(text, name, int(np.exp(rng.uniform(np.log(14), np.log(high)))), 0.9 * side)
        margin = 3 + size // 5
        left, top, right, bottom = rd.extent(text, name, size)
        wide, tall = right - left + 2 * margin, bottom - top + 2 * margin
        if size < low or wide > side or tall > side:
            continue
        for _ in range(TRIES):
            x, y = int(rng.integers(0, side - wide + 1)), int(rng.integers(0, side - tall + 1))
            if all(x + wide <= a or c <= x or y + tall <= b or d <= y for a, b, c, d in taken):
                break
        else:
            continue
        box = (x, y, x + wide, y + tall)
        taken.append(box)
        if rng.random() < 0.4 or rd.is_busy(picture.crop(box)):
            plate = rd.paper(rng) if rng.random() < 0.5 else _panel(rng)
            pen.frame(box, plate, plate)
        ink = rd.contrasting(rng, picture.crop(box))
        written = pen.write(text, (x + margin - left, y + margin - top), name, size, ink)
        lines.append((written, name, size))
    return lines


def _panel(rng: np.random.Generator) -> rd.Colour:
    """The colour of a signpost, or a dark one."""
    return PANELS[int(rng.integers(len(PANELS)))] if rng.random() < 0.5 else rd.dark(rng)


def characters(written: rd.Written, name: str, size: int) -> list[Character]:
    """The characters of a text that was written in this font and size."""
    face = rd.face(name, size)
    start = written.box[0] - rd.extent(written.text, name, size)[0]
    line = written.box[1] - rd.extent(written.text, name, size)[1]
    ends = [start + face.getlength(written.text[:count]) for count in range(len(written.text) + 1)]
    out = []
    for number, text in enumerate(written.text):
        _, top, _, bottom = rd.extent(text, name, size)
        if text.strip() and bottom > top:
            out.append(Character(text, (ends[number], line + top, ends[number + 1], line + bottom)))
    return out


def _word(rng: np.random.Generator, split: str) -> str:
    text, _ = vb.word(rng, split)
    return (text.upper(), text, text.capitalize())[int(rng.choice(3, p=(0.4, 0.3, 0.3)))]


def _number(rng: np.random.Generator, split: str) -> str:
    return str(rng.integers(1, 10 ** rng.integers(1, 6)))


def _letters(rng: np.random.Generator, split: str) -> str:
    """No word: an encoder that knows all words by sight could not read new ones."""
    letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=int(rng.integers(3, 8)))
    text = "".join(letters)
    return text.upper() if rng.random() < 0.5 else text


TEXTS: tuple[tuple[float, Callable[[np.random.Generator, str], str]], ...] = (
    (0.3, _word),
    (0.16, _number),
    (0.16, _letters),
    (0.12, lambda rng, _: amount(int(rng.integers(10, 20000)), "$" if rng.random() < 0.4 else "")),
    (0.06, lambda rng, _: date(rng, (1940, 2027))),
    (0.05, vb.shop),
    (0.05, vb.person),
    (0.1, lambda rng, _: pick(rng, (*vb.GOODS, *vb.SIGHTS, *vb.CITIES))),
)
"""How often a text is of each kind."""


def any_text(rng: np.random.Generator, split: str) -> str:
    """A text of any kind that our renderings have."""
    shares, makers = zip(*TEXTS, strict=True)
    return makers[int(rng.choice(len(makers), p=shares))](rng, split)
