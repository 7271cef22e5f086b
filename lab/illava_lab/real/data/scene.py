"""Scenes: a picture with several questions about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

SMALL = 0.03
"""The share of the picture below which what a question is about counts as small."""

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


class Turn(NamedTuple):
    """One question about the picture of a scene."""

    question: str
    answer: str
    """The training target: the first of the correct answers."""
    kind: str
    """For example "clothing" or "receipt-total"; also the name under which training balances turns."""
    small: bool
    """Whether the question hinges on less than 3 % of the picture's area."""


class Scene(NamedTuple):
    """A picture and questions about it."""

    picture: Image.Image
    """RGB, of any size."""
    turns: tuple[Turn, ...]


class Ask(NamedTuple):
    """A question in all its wordings."""

    wordings: tuple[str, ...]
    """Training asks in any of them, a task in the first."""
    answer: str
    kind: str
    small: bool
    also: tuple[str, ...] = ()
    """Other answers that are right."""


class Drawing(NamedTuple):
    """A picture and all that may be asked about it."""

    picture: Image.Image
    asks: tuple[Ask, ...]
    source: str = ""
    """The name of the set's picture, where it is one picture of a set."""

    def scene(self, rng: np.random.Generator) -> Scene:
        """The scene that training sees, each question in a random wording."""
        turns = [Turn(pick(rng, ask.wordings), ask.answer, ask.kind, ask.small) for ask in self.asks]
        return Scene(self.picture, tuple(turns))


Draw = Callable[[np.random.Generator], Drawing]
"""Draws the picture of one scene with the generator of that scene."""


def distinct(asks: Iterable[Ask | None]) -> tuple[Ask, ...]:
    """The questions that there are, each once, in their order."""
    return tuple({ask.wordings: ask for ask in asks if ask}.values())


def is_small(boxes: Iterable[Box], size: tuple[int, int]) -> bool:
    """Whether ``boxes``, all that the answer depends on, together cover less than 3 % of ``size`` pixels."""
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    return bool(area < SMALL * size[0] * size[1])


def pick(rng: np.random.Generator, options: Iterable[str]) -> str:
    """One of ``options``, all equally likely."""
    options = list(options)
    return options[int(rng.integers(len(options)))]
