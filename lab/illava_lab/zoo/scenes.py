"""Training scenes: the tasks' things, numbers and words in any picture size, and where each of them is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..drawing.canvas import COLOURS, Box, Canvas, Thing, any_thing, is_free, tone
from ..drawing.glyphs import SHAPES, handwriting_ids, handwritten_mask, shape_mask
from ..drawing.lettering import FONTS, TRAINING_FAMILIES, in_line, letter_columns, printed, random_word

KINDS = ("crowd", "count", "number", "word", "mixed", "text")
TRIES = 60  # attempts to place a thing before it is omitted


@dataclass(frozen=True)
class Item:
    """One thing or one character; ``box`` is (left, top, right, bottom), right and bottom exclusive."""

    name: str  # "star", "7" or "C"
    box: Box
    colour: str | None = None  # a key of COLOURS for things, None for characters
    place: int = 0  # characters: from 1, from left to right
    motion: int = 0  # things in a video: 0 for still, else from 1 by the order of its directions

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Scene:
    """A uint8 (side, side, 3) RGB image, its float32 (side, side) ink in 0..1, and its contents."""

    picture: np.ndarray
    ink: np.ndarray
    items: tuple[Item, ...]
    kind: str  # one of KINDS

    @property
    def things(self) -> list[Item]:
        """The coloured shapes, in drawing order."""
        return [item for item in self.items if item.colour is not None]

    @property
    def written(self) -> str:
        """The number or word in the image; an empty string if there is none or more than one."""
        return "".join(item.name for item in self.items if item.place and self.kind != "text")


class Sheet(Canvas):
    """A canvas that records what was painted where."""

    def __init__(self, rng: np.random.Generator, side: int):
        super().__init__(rng, side)
        self.cover = np.zeros((side, side), np.float32)
        self.items: list[Item] = []

    def paint(self, mask: np.ndarray, place: tuple[int, int], colour: np.ndarray) -> float:
        """As :meth:`Canvas.paint`; also records the ink."""
        (left, top), (height, width) = place, mask.shape
        self.cover[top : top + height, left : left + width] = mask
        return super().paint(mask, place, colour)

    def put(
        self, rng: np.random.Generator, thing: Thing, size: int, place: tuple[int, int], motion: int = 0
    ) -> None:
        """Paint a thing of ``size`` x ``size`` pixels at ``place`` (left, top)."""
        shape, colour = thing
        self.paint(shape_mask(shape, size, rng.uniform(-0.2, 0.2)), place, tone(rng, colour))
        box = (place[0], place[1], place[0] + size, place[1] + size)
        self.items.append(Item(shape, box, colour, motion=motion))

    def find(self, rng: np.random.Generator, width: int, height: int) -> tuple[int, int] | None:
        """A free (left, top) for a box, or None after ``TRIES`` attempts."""
        if max(width, height) > self.side - 2:
            return None
        boxes = [item.box for item in self.items]
        places = rng.integers(1, (self.side - width, self.side - height), (TRIES, 2)).tolist()
        found = (place for place in places if is_free(place, width, height, boxes))
        place = next(found, None)
        return None if place is None else (place[0], place[1])

    def scatter(self, rng: np.random.Generator, things: Sequence[Thing], sizes: Sequence[int]) -> None:
        """Paint the things that fit; answers depend on what was painted."""
        for thing, size in zip(things, sizes, strict=True):
            place = self.find(rng, size, size)
            if place is not None:
                self.put(rng, thing, int(size), place)

    def scene(self, rng: np.random.Generator, kind: str) -> Scene:
        """The image painted so far, with new noise."""
        return Scene(np.asarray(self.picture(rng)), self.cover.copy(), tuple(self.items), kind)


def sizes_of_crowd(rng: np.random.Generator, side: int) -> np.ndarray:
    """As :func:`~illava_lab.drawing.canvas.crowd`, with fewer things in smaller images."""
    small = rng.random() < 0.5
    low, high = (3, 7) if small else (2, 4)
    scale = side / 192
    n = rng.integers(max(1, round(low * scale)), max(1, round(high * scale)) + 1)
    return rng.integers(*((20, 31) if small else (40, min(55, side - 3))), n)


def draw_scene(rng: np.random.Generator, side: int, split: str, kind: str) -> Scene:
    """Draw a scene of one of ``KINDS`` in ``side`` x ``side`` pixels (a multiple of 16, at least 48).

    ``split`` decides which handwriting samples, words and fonts may appear. Raises ValueError for a kind or
    side that does not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of scene {kind!r}; the kinds are {', '.join(KINDS)}")
    if side % 16 or side < 48:
        raise ValueError(f"side must be a multiple of 16 and at least 48 pixels, not {side}")
    sheet = Sheet(rng, side)
    if kind == "crowd":
        sizes = sizes_of_crowd(rng, side)
        sheet.scatter(rng, [any_thing(rng) for _ in sizes], sizes)
    elif kind == "mixed":
        sizes = rng.integers(20, 31, rng.integers(3, max(3, round(12 * side / 192)) + 1))
        sheet.scatter(rng, _mixed(rng, len(sizes)), sizes)
    elif kind == "count":
        things = _alike(rng, most=max(1, round(9 * (side / 192) ** 0.9)))
        sheet.scatter(rng, things, rng.integers(20, 31, len(things)))
    elif kind == "text":
        # As full as possible: learning letters takes many of them, and images are expensive.
        missed = 0
        while missed < 3:
            missed += not _write(sheet, rng, split, "word" if rng.random() < 0.75 else "number")
    else:
        _write(sheet, rng, split, kind)
        n = int(rng.integers(0, 4)) if side > 96 else int(rng.integers(0, 2))
        sheet.scatter(rng, [any_thing(rng) for _ in range(n)], rng.integers(20, 31, n))
    return sheet.scene(rng, kind)


def _write(sheet: Sheet, rng: np.random.Generator, split: str, kind: str) -> bool:
    """Write a number or a word at a free place; returns False if there is none."""
    mask, columns, text = (_number if kind == "number" else _word)(rng, sheet.side, split)
    height, width = mask.shape
    place = sheet.find(rng, width, height)
    if place is None:
        return False
    left, top = place
    sheet.paint(mask, place, sheet.ink)
    for number, (name, (start, end)) in enumerate(zip(text, columns, strict=True), 1):
        rows = np.nonzero(mask[:, start:end].max(1, initial=0) > 0.1)[0]
        first, last = (rows[0], rows[-1] + 1) if len(rows) else (0, height)
        box = (left + start, top + int(first), left + end, top + int(last))
        sheet.items.append(Item(name, box, place=number))
    return True


def _alike(rng: np.random.Generator, most: int) -> list[Thing]:
    """1 to ``most`` things of one shape or of one colour, then up to 6 others of another one."""
    count = int(rng.integers(1, most + 1))
    others = int(rng.integers(0, max(1, min(6, most + 3 - count)) + 1))
    shape, colour = any_thing(rng)
    if rng.random() < 0.5:
        things = [(shape, any_thing(rng)[1]) for _ in range(count)]
        return things + [any_thing(rng, shapes_but=shape) for _ in range(others)]
    things = [(any_thing(rng)[0], colour) for _ in range(count)]
    return things + [any_thing(rng, colours_but=colour) for _ in range(others)]


def _mixed(rng: np.random.Generator, count: int) -> list[Thing]:
    """``count`` things of 2 or 3 shapes and 2 or 3 colours; only both together distinguish them."""
    shapes = rng.choice(SHAPES, rng.integers(2, 4), replace=False)
    colours = rng.choice(list(COLOURS), rng.integers(2, 4), replace=False)
    pairs = [(str(shape), str(colour)) for shape in shapes for colour in colours]
    return [pairs[i % len(pairs)] for i in rng.permutation(max(count, len(pairs)))[:count]]


def _stretched(mask: np.ndarray, factor: float) -> np.ndarray:
    width = max(1, round(mask.shape[1] * factor))
    image = Image.fromarray(mask).resize((width, mask.shape[0]), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(image), 0, 1)


def _number(rng: np.random.Generator, side: int, split: str) -> tuple[np.ndarray, list[tuple[int, int]], str]:
    """Mask, (left, right) columns of every digit and text of a handwritten number that fits into ``side``."""
    count = int(rng.integers(2, 5)) if side > 48 else 1
    size = int(rng.integers(30, 43) if rng.random() < 0.5 else rng.integers(52, 65))
    stretch = rng.uniform(0.85, 1.15)
    while True:
        samples = rng.choice(handwriting_ids(split), count).tolist()
        turns, gaps = rng.uniform(-10, 10, count), rng.integers(2, 7, count)
        while True:
            written = [handwritten_mask(s, size, turn) for s, turn in zip(samples, turns, strict=True)]
            masks = [_stretched(mask, stretch) for mask, _ in written]
            if sum(mask.shape[1] for mask in masks) + gaps.sum() < side - 4 > max(map(len, masks)) + 5:
                break
            size -= 2
        if count == 1 or written[0][1] != 0:
            break
    ends = np.cumsum([mask.shape[1] + gap for mask, gap in zip(masks, gaps, strict=True)])
    columns = [
        (int(end - gap - mask.shape[1]), int(end - gap))
        for mask, gap, end in zip(masks, gaps, ends, strict=True)
    ]
    return in_line(masks, gaps, rng.integers(0, 5, count)), columns, "".join(str(d) for _, d in written)


def _word(rng: np.random.Generator, side: int, split: str) -> tuple[np.ndarray, list[tuple[int, int]], str]:
    """Mask, columns of every letter and text of a printed word, slightly stretched and slanted."""
    word = random_word(rng, split)
    if side <= 48:
        word = word[: int(rng.integers(1, 3))]
    size = int(rng.integers(22, 31) if rng.random() < 0.5 else rng.integers(38, 49))
    fonts = TRAINING_FAMILIES[rng.integers(len(TRAINING_FAMILIES))] if split == "train" else FONTS[split]
    font, stretch = str(rng.choice(fonts)), rng.uniform(0.8, 1.25)
    slant = rng.uniform(-0.12, 0.25) if rng.random() < 0.5 else 0.0
    while True:
        mask = _stretched(printed(word, font, size), stretch)
        shift = abs(slant) * mask.shape[0]
        if mask.shape[1] + shift < side - 4:
            break
        size -= 2
    margin = round(shift / 2)
    if margin:
        mask = np.pad(mask, ((0, 0), (margin, margin)))
        # Output pixel (x, y) shows input pixel (x + slant (y - middle), y): the centres of letters do not
        # move.
        across = (1, slant, -slant * mask.shape[0] / 2, 0, 1, 0)
        image = Image.fromarray(mask)
        image = image.transform(image.size, Image.Transform.AFFINE, across, Image.Resampling.BILINEAR)
        mask = np.asarray(image)
    spans = [
        (round(a * stretch) + margin, round(b * stretch) + margin)
        for a, b in letter_columns(word, font, size)
    ]
    return mask, [(max(0, a), min(mask.shape[1], max(a + 1, b))) for a, b in spans], word
