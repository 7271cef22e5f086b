"""Whether an image shows a given shape, colour, or coloured shape."""

import numpy as np

from ..drawing.canvas import SMALL, Canvas, any_thing, crowd, indefinite, other_than, scatter, with_or_without
from .base import Drawn, Task

PHRASES = ("Is there {} in the picture?", "Does the picture show {}?", "Can you see {}?")


class Existence(Task):
    """The answer to even numbers is yes, to odd numbers no, so a guess is right once in 2.

    If the question is about a colour and a shape and the answer is no, both occur on different things. A
    sample is small if all things in the image are, so that yes and no are equally frequent among small
    samples.
    """

    name = "existence"
    description = "Say whether a picture shows a thing of a given shape, colour or both; half of them do."
    choices = ("yes", "no")
    guess = 1 / 2
    stream = 6

    def draw(self, rng: np.random.Generator, number: int) -> Drawn:
        sizes = crowd(rng)
        there = number % 2 == 0
        kind = str(rng.choice(["shape", "colour", "colour and shape"]))
        shape, colour = thing = any_thing(rng)
        if kind == "shape":
            about = indefinite(shape)
            things = [any_thing(rng, shapes_but=shape) for _ in sizes]
        elif kind == "colour":
            about = f"anything {colour}"
            things = [any_thing(rng, colours_but=colour) for _ in sizes]
        else:
            about = indefinite(f"{colour} {shape}")
            others = [other_than(rng, thing) for _ in sizes[2:]]
            things = with_or_without(rng, thing, there) + others
        if there:
            things[0] = thing
        canvas = Canvas(rng)
        shares = scatter(canvas, rng, things, sizes)
        question = str(rng.choice(PHRASES)).format(about)
        return Drawn(kind, question, "yes" if there else "no", max(shares) < SMALL, (canvas.picture(rng),))
