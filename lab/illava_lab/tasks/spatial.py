"""The position of one thing relative to another."""

import numpy as np

from ..drawing.canvas import COLOURS, SIDE, SMALL, Box, Canvas, Thing, any_thing, crowd, scatter, tone
from ..drawing.glyphs import SHAPES, shape_mask
from .base import Drawn, Task

MARGIN = 8  # pixels between the two along the relation's axis
SLANT = 0.4  # how far the centres may differ across it, as a share of how far they differ along it
PHRASES = (
    "Where is the {} relative to the {}: left, right, above or below?",
    "Is the {} left of, right of, above or below the {}?",
    "The {} is on which side of the {}: left, right, above or below?",
)


class Spatial(Task):
    """Two of up to 7 things, named by shape, or by colour and shape if other things share one of them.

    The line between their centres is within 22 degrees of the axis in question, and their boxes are
    ``MARGIN`` pixels apart along it. All relations are equally likely, so a guess is right once in 4. A
    sample is small if both things are.
    """

    name = "spatial"
    description = "Say whether one thing is left of, right of, above or below another."
    choices = ("left", "right", "above", "below")
    guess = 1 / 4
    group = "where"
    stream = 5

    def draw(self, rng: np.random.Generator, number: int) -> Drawn:
        sizes = crowd(rng)
        answer = str(rng.choice(self.choices))
        kind = str(rng.choice(["shape", "colour and shape"]))
        shapes = [str(shape) for shape in rng.choice(SHAPES, 2, replace=False)]
        colours = [str(colour) for colour in rng.choice(list(COLOURS), 2, replace=False)]
        pair: list[Thing] = list(zip(shapes, colours, strict=True))
        if kind == "shape":
            named = shapes
            free = [shape for shape in SHAPES if shape not in shapes]
            others = [(str(rng.choice(free)), any_thing(rng)[1]) for _ in sizes[2:]]
        else:
            named = [f"{colour} {shape}" for shape, colour in pair]
            others = [_unlike(rng, pair) for _ in sizes[2:]]
        boxes = _place(rng, answer, int(sizes[0]), int(sizes[1]))
        canvas = Canvas(rng)
        shares = []
        for (shape, colour), box in zip(pair, boxes, strict=True):
            mask = shape_mask(shape, box[2] - box[0], rng.uniform(-0.2, 0.2))
            shares.append(canvas.paint(mask, box[:2], tone(rng, colour)))
        scatter(canvas, rng, others, sizes[2:], boxes)
        question = str(rng.choice(PHRASES)).format(*named)
        return Drawn(kind, question, answer, max(shares) < SMALL, (canvas.picture(rng),))


def _unlike(rng: np.random.Generator, pair: list[Thing]) -> Thing:
    """A thing that shares colour or shape with one of the pair, but is neither."""
    while True:
        shape, colour = pair[rng.integers(2)]
        other = any_thing(rng)
        thing = (shape, other[1]) if rng.random() < 0.5 else (other[0], colour)
        if thing not in pair:
            return thing


def _place(rng: np.random.Generator, relation: str, size: int, other: int) -> list[Box]:
    """Boxes of two things of these sizes, the first in ``relation`` to the second."""
    while True:
        first = rng.integers(1, SIDE - size, 2)
        second = rng.integers(1, SIDE - other, 2)
        boxes = [
            (int(x), int(y), int(x) + side, int(y) + side)
            for (x, y), side in ((first, size), (second, other))
        ]
        if relation_of(*boxes) == relation:
            return boxes


def relation_of(first: Box, second: Box) -> str | None:
    """The position of the first box relative to the second, or None if it is ambiguous."""
    for axis, names in enumerate((("left", "right"), ("above", "below"))):
        # Twice the distances of the centres, and the sides' sum: whole numbers, as boxes are.
        apart = [first[i] + first[i + 2] - second[i] - second[i + 2] for i in range(2)]
        along, across = apart[axis], apart[1 - axis]
        sides = first[axis + 2] - first[axis] + second[axis + 2] - second[axis]
        if abs(along) - sides >= 2 * MARGIN and abs(across) <= SLANT * abs(along):
            return names[along > 0]
    return None
