"""Which of several images shows a given thing, or the most shapes."""

import numpy as np

from ..drawing.canvas import SMALL, Canvas, any_thing, crowd, indefinite, other_than, scatter, with_or_without
from .base import Drawn, Task

PHRASES = (
    "Which picture has {}: {}?",
    "In which picture do you see {}: {}?",
    "Which of the pictures shows {}: {}?",
)


class MultiPicture(Task):
    """2, 3 or 4 images; the answer is the number of one of them.

    Either one image shows a thing whose shape and colour occur on different things in the others, or one has
    more shapes than any other. All images are equally likely, so a guess is right in 13 of 36 cases. A sample
    is small if the thing in question, or all things to compare, are small.
    """

    name = "multi_picture"
    description = "Say which of 2 to 4 pictures has a given thing, or the most shapes."
    choices = ("1", "2", "3", "4")
    guess = (1 / 2 + 1 / 3 + 1 / 4) / 3
    stream = 7

    def draw(self, rng: np.random.Generator, number: int) -> Drawn:
        count = int(rng.integers(2, 5))
        answer = int(rng.integers(count))
        if rng.random() < 0.5:
            kind = "has"
            shape, colour = thing = any_thing(rng)
            about = indefinite(f"{colour} {shape}")
            canvases, shares = [], []
            sizes = [crowd(rng) for _ in range(count)]
            for i in range(count):
                others = [other_than(rng, thing) for _ in sizes[i][2:]]
                things = with_or_without(rng, thing, i == answer) + others
                canvases.append(Canvas(rng))
                shares.append(scatter(canvases[-1], rng, things, sizes[i])[0])
            small = shares[answer] < SMALL
        else:
            kind, about = "most", "more shapes" if count == 2 else "the most shapes"
            most = int(rng.integers(2, 8))
            canvases, shares = [], []
            for i in range(count):
                n = most if i == answer else int(rng.integers(max(1, most - 3), most))
                canvases.append(Canvas(rng))
                things = [any_thing(rng) for _ in range(n)]
                shares += scatter(canvases[-1], rng, things, rng.integers(20, 31, n))
            small = max(shares) < SMALL
        listed = f"{', '.join(str(i) for i in range(1, count))} or {count}"
        question = str(rng.choice(PHRASES)).format(about, listed)
        pictures = tuple(canvas.picture(rng) for canvas in canvases)
        return Drawn(kind, question, str(answer + 1), small, pictures)
