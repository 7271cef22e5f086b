"""Questions about the colour of a shape or the shape of a colour."""

import numpy as np

from ..drawing.canvas import COLOURS, SMALL, Canvas, any_thing, crowd, scatter
from ..drawing.glyphs import SHAPES
from .base import Drawn, Task

PHRASES = {
    "colour": ("What colour is the {}?", "Which colour does the {} have?", "What is the colour of the {}?"),
    "shape": ("Which shape is {}?", "What is the {} shape?", "What shape is the {} one?"),
}


class Attribute(Task):
    """Images of 2 to 7 things; the question is about the only one of its shape, or of its colour.

    All 8 shapes and all 8 colours are equally likely, so a guess is right once in 8.
    """

    name = "attribute"
    description = "Name the colour of a shape, or the shape of a colour, among 2 to 7 things."
    choices = (*COLOURS, *SHAPES)
    guess = 1 / 8
    stream = 1

    def draw(self, rng: np.random.Generator, number: int) -> Drawn:
        sizes = crowd(rng)
        kind = str(rng.choice(["colour", "shape"]))
        shape, colour = target = any_thing(rng)
        but = {"shapes_but": shape} if kind == "colour" else {"colours_but": colour}
        canvas = Canvas(rng)
        shares = scatter(canvas, rng, [target, *(any_thing(rng, **but) for _ in sizes[1:])], sizes)
        about, answer = (shape, colour) if kind == "colour" else (colour, shape)
        question = str(rng.choice(PHRASES[kind])).format(about)
        return Drawn(kind, question, answer, shares[0] < SMALL, (canvas.picture(rng),))
