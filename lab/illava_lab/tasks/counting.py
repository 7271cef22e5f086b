"""Count all shapes, those of one shape, or those of one colour."""

import numpy as np

from ..drawing.canvas import SMALL, Canvas, any_thing, scatter
from ..drawing.glyphs import SHAPES
from .base import Drawn, Task

COUNTING = ("How many {} are there?", "How many {} can you see?", "Count the {}.")
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}

MOST = 12  # things in a picture


class Counting(Task):
    """1 to 9 things of 20 to 30 pixels to count, among up to 6 others or alone.

    For every kind of question all numbers are equally likely and independent of the sizes, so a guess is
    right once in 9. All samples are small, because every single thing matters.
    """

    name = "counting"
    description = "Count 1 to 9 shapes: all of them, those of one shape, or those of one colour."
    choices = tuple("123456789")
    guess = 1 / 9
    stream = 2

    def draw(self, rng: np.random.Generator, number: int) -> Drawn:
        kind = str(rng.choice(["all", "shape", "colour"]))
        count = int(rng.integers(1, 10))
        shape, colour = any_thing(rng)
        if kind == "all":
            about, others = "shapes", []
            counted = [any_thing(rng) for _ in range(count)]
        else:
            n_others = int(rng.integers(1, min(6, MOST - count) + 1))
            if kind == "shape":
                about = PLURALS[shape]
                counted = [(shape, any_thing(rng)[1]) for _ in range(count)]
                others = [any_thing(rng, shapes_but=shape) for _ in range(n_others)]
            else:
                about = f"{colour} shapes"
                counted = [(any_thing(rng)[0], colour) for _ in range(count)]
                others = [any_thing(rng, colours_but=colour) for _ in range(n_others)]
        things = counted + others
        canvas = Canvas(rng)
        shares = scatter(canvas, rng, things, rng.integers(20, 31, len(things)))
        question = str(rng.choice(COUNTING)).format(about)
        return Drawn(kind, question, str(count), max(shares[:count]) < SMALL, (canvas.picture(rng),))
