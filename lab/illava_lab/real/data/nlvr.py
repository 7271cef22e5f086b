"""The stream ``nlvr``: the set's sentences about drawn shapes, and exact questions from its scene records."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from illava.errors import InputError

from . import photographs as ph
from .scene import Ask, Draw, Drawing, is_small, pick
from .sets import lines

BOXES = ("left", "middle", "right")
STARTS = (0, 150, 300)  # pixels from the left edge at which the boxes start
BOX = 100  # pixels, the side of a box
SIZE = (400, 100)
COLOURS, SHAPES = ("yellow", "black", "blue"), ("circle", "square", "triangle")
CLEAR = 5  # pixels by which places must differ for their order to be asked about
MOST_TURNS = 6
MOST = 9  # things are counted up to this number


class Shape(NamedTuple):
    """One drawn thing; ``x`` and ``y`` are its upper left corner within its box."""

    box: int
    shape: str
    colour: str
    size: int
    x: int
    y: int

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> tuple[float, float, float, float]:
        """Its box in pixels of the picture."""
        left = STARTS[self.box] + self.x
        return left, self.y, left + self.size, self.y + self.size


class Picture(NamedTuple):
    """A picture with its sentences and shapes."""

    path: Path
    sentences: tuple[tuple[str, str], ...]
    """(question, yes or no)."""
    shapes: tuple[Shape, ...]


def draw(split: str, folder: Path) -> Draw:
    """Scenes of one picture each, with its sentences and up to 5 generated questions."""
    found = pictures(split, folder)

    def drawing(rng: np.random.Generator) -> Drawing:
        picture = found[int(rng.integers(len(found)))]
        sentence = picture.sentences[int(rng.integers(len(picture.sentences)))]
        turns = [of_the_set(picture, sentence)]
        makers = (count, exists, which_box, property_of, above, most)
        made = [turn for make in makers if (turn := make(rng, picture))]
        turns += [made[i] for i in rng.permutation(len(made))[: MOST_TURNS - 1]]
        return Drawing(ph.load(picture.path), tuple(turns), picture.path.stem)

    return drawing


@lru_cache(maxsize=8)
def pictures(split: str, folder: Path) -> tuple[Picture, ...]:
    """All pictures of a split. Raises InputError for missing or malformed scene records."""
    sentences: dict[Path, list[tuple[str, str]]] = {}
    for line in lines("nlvr", split, folder):
        sentences.setdefault(line.picture, []).append((line.question, line.answers[0]))
    if not sentences:
        raise InputError(f"{folder / 'nlvr'}: no pictures for {split}; the set needs more pictures")
    shapes = records(folder / "nlvr")
    missing = [path.name for path in sentences if path not in shapes]
    if missing:
        raise InputError(f"{folder / 'nlvr' / 'scenes.jsonl'}: no record of {missing[0]}")
    return tuple(Picture(path, tuple(some), shapes[path]) for path, some in sentences.items())


@lru_cache(maxsize=4)
def records(folder: Path) -> dict[Path, tuple[Shape, ...]]:
    """The shapes of every picture in the set's ``folder``. Raises InputError for a missing or broken file."""
    path, found = folder / "scenes.jsonl", {}
    try:
        texts = path.read_text("utf-8").splitlines()
    except OSError:
        raise InputError(f"no file {path}: the set nlvr needs its scene records") from None
    for number, text in enumerate(texts, 1):
        try:
            record = json.loads(text)
            found[folder / record["image"]] = tuple(
                Shape(box, *shape) for box, shapes in enumerate(record["boxes"]) for shape in shapes
            )
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: not an object with image and boxes") from None
    return found


def of_the_set(picture: Picture, sentence: tuple[str, str]) -> Ask:
    """A sentence; it is small if all shapes together are, as it may be about any of them."""
    question, answer = sentence
    small = is_small([shape.place for shape in picture.shapes], SIZE)
    return Ask((question,), answer, "nlvr-sentence", small)


def count(rng: np.random.Generator, picture: Picture) -> Ask | None:
    """How many things of a colour, shape or both there are, in one box or in all."""
    shapes, where = _some_box(rng, picture)
    kind = int(rng.integers(3))
    names = [(shape.colour, shape.shape, shape.name)[kind] for shape in shapes]
    often = Counter(name for name in names)
    if not often:
        return None
    number = int(rng.choice(sorted(set(often.values()))))
    name = pick(rng, sorted(name for name, some in often.items() if some == number))
    if number > MOST:
        return None
    things = f"{name} things" if kind == 0 else f"{name}s"
    wordings = (f"How many {things} are there{where}?", f"Count the {things}{where}.")
    boxes = [shape.place for shape, some in zip(shapes, names, strict=True) if some == name]
    return Ask(wordings, str(number), "nlvr-count", is_small(boxes, SIZE))


def exists(rng: np.random.Generator, picture: Picture) -> Ask | None:
    """Whether there is a thing of a colour and shape, in one box or in all; half of the answers are yes."""
    shapes, where = _some_box(rng, picture)
    there = sorted({shape.name for shape in shapes})
    absent = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    absent = [name for name in absent if name not in there]
    yes = rng.random() < 0.5
    if not (there if yes else absent):
        return None
    name = pick(rng, there if yes else absent)
    wordings = (f"Is there a {name}{where}?", f"Do you see a {name}{where}?")
    small = all(is_small([shape.place], SIZE) for shape in picture.shapes)
    return Ask(wordings, "yes" if yes else "no", "nlvr-exists", small)


def which_box(rng: np.random.Generator, picture: Picture) -> Ask | None:
    """Which box has a thing that no other box has."""
    found: dict[str, set[int]] = {}
    for shape in picture.shapes:
        found.setdefault(shape.name, set()).add(shape.box)
    names = sorted(name for name, boxes in found.items() if len(boxes) == 1)
    if not names:
        return None
    name = pick(rng, names)
    (box,) = found[name]
    wordings = (f"Which box has a {name}?", f"In which box is a {name}?")
    boxes = [shape.place for shape in picture.shapes if shape.name == name]
    return Ask(wordings, BOXES[box], "nlvr-box", is_small(boxes, SIZE))


def property_of(rng: np.random.Generator, picture: Picture) -> Ask | None:
    """The colour, or among several shapes the shape, of the clearly highest or lowest thing in a box.

    All answers that the picture allows are equally likely.
    """
    alike = len({shape.shape for shape in picture.shapes}) < 2  # as in all towers, which are of squares
    what = "color" if alike or rng.random() < 0.4 else "shape"
    found: dict[str, list[tuple[Shape, str]]] = {}
    for box, name in enumerate(BOXES):
        for end in ("highest", "lowest"):
            shape = outermost([shape for shape in picture.shapes if shape.box == box], end)
            if shape:
                answer = shape.colour if what == "color" else shape.shape
                found.setdefault(answer, []).append((shape, f"{end} thing in the {name} box"))
    if not found:
        return None
    answer = pick(rng, sorted(found))
    shape, thing = found[answer][int(rng.integers(len(found[answer])))]
    wordings = (f"What {what} is the {thing}?", f"What is the {what} of the {thing}?")
    return Ask(wordings, answer, f"nlvr-{what}", is_small([shape.place], SIZE))


def outermost(shapes: list[Shape], end: str) -> Shape | None:
    """The "highest" or "lowest" of ``shapes`` by its upper or lower edge, if the next is clearly behind."""
    ranked = sorted(shapes, key=lambda shape: _edge(shape, end), reverse=True)
    if not ranked or (len(ranked) > 1 and _edge(ranked[0], end) - _edge(ranked[1], end) < CLEAR):
        return None
    return ranked[0]


def _edge(shape: Shape, end: str) -> int:
    return -shape.y if end == "highest" else shape.y + shape.size


def above(rng: np.random.Generator, picture: Picture) -> Ask | None:
    """What is directly above the only thing of a colour and shape."""
    often = Counter(shape.name for shape in picture.shapes)
    alone = [shape for shape in picture.shapes if often[shape.name] == 1]
    found = [(shape, other) for shape in alone if (other := directly_above(shape, picture.shapes))]
    if not found:
        return None
    shape, other = found[int(rng.integers(len(found)))]
    wordings = (
        f"What is directly above the {shape.name}?",
        f"Which thing is directly above the {shape.name}?",
    )
    return Ask(wordings, other.name, "nlvr-above", is_small([shape.place, other.place], SIZE))


def directly_above(shape: Shape, shapes: tuple[Shape, ...]) -> Shape | None:
    """The nearest of ``shapes`` above ``shape`` in its box, if their columns clearly overlap.

    None if there is none, if it is not clearly nearer than the next one, or if one that just overlaps or just
    misses the columns is nearer.
    """
    over = [
        other
        for other in shapes
        if other.box == shape.box and other.y + other.size <= shape.y and _overlap(other, shape) > -CLEAR
    ]
    nearest = outermost(over, "lowest")
    return nearest if nearest and _overlap(nearest, shape) >= CLEAR else None


def _overlap(one: Shape, other: Shape) -> int:
    """The pixels that the columns of both share; below 0 the gap between them."""
    return min(one.x + one.size, other.x + other.size) - max(one.x, other.x)


def most(rng: np.random.Generator, picture: Picture) -> Ask | None:
    """Which box has the most things, if one has."""
    often = Counter(shape.box for shape in picture.shapes).most_common(2)
    if not often or (len(often) == 2 and often[0][1] == often[1][1]):
        return None
    wordings = ("Which box has the most things?", "In which box are the most things?")
    boxes = [shape.place for shape in picture.shapes]
    return Ask(wordings, BOXES[often[0][0]], "nlvr-most", is_small(boxes, SIZE))


def _some_box(rng: np.random.Generator, picture: Picture) -> tuple[list[Shape], str]:
    """The shapes of one box or of all, and the words that say which."""
    box = int(rng.integers(-1, len(BOXES)))
    shapes = [shape for shape in picture.shapes if box in (-1, shape.box)]
    return shapes, f" in the {BOXES[box]} box" if box >= 0 else ""
