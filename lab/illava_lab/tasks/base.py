"""What a task is: a numbered supply of samples, each a pure function of split, seed and number."""

from __future__ import annotations

import importlib
import operator
from types import ModuleType
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image

from illava.errors import UnsupportedError
from illava.evaluation.samples import Sample

from ..drawing.streams import SPLITS, scene_rng


class Drawn(NamedTuple):
    """What drawing one sample gives; the fields mean what they mean in :class:`Sample`."""

    kind: str
    question: str
    answer: str
    small: bool
    pictures: tuple[Image.Image, ...] = ()
    video: tuple[Image.Image, ...] = ()


class Task:
    """An endless task: ``task[number]`` draws that sample without drawing the ones before it.

    A task is a subclass that sets the class attributes and overrides :meth:`draw`. Tasks of a fixed length
    have ``len()`` as well and end with an IndexError. Raises ValueError for an unknown split or a negative
    seed, UnsupportedError when a package is missing that illava-lab installs.
    """

    name: ClassVar[str]
    """As in ``names()``."""
    description: ClassVar[str]
    """One sentence for people."""
    choices: ClassVar[tuple[str, ...]] = ()
    """Every answer there can be; empty where answers are read from the picture."""
    guess: ClassVar[float]
    """Share that guessing gets right, without eyes but knowing the likeliest answer to each question."""
    stream: ClassVar[int]
    """Number of the task's random stream: never reused, never changed."""
    needs: ClassVar[tuple[str, str] | None] = None
    """A module that is not always installed, and the package that brings it."""

    def __init__(self, split: str = "test", seed: int = 0):
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
        if operator.index(seed) < 0:
            raise ValueError(f"seed must be 0 or more, not {seed}")
        self.split, self.seed = split, operator.index(seed)
        if self.needs:
            self.needed()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(split={self.split!r}, seed={self.seed})"

    def __getitem__(self, number: int) -> Sample:
        """Return sample ``number``, the same one whatever was drawn before. Raises IndexError below 0."""
        number = operator.index(number)
        if number < 0:
            raise IndexError(f"samples are numbered from 0, there is no {number}")
        drawn = self.draw(scene_rng(self.seed, self.split, self.stream, number), number)
        return Sample(
            task=self.name,
            number=number,
            question=drawn.question,
            answers=(drawn.answer,),
            pictures=drawn.pictures,
            video=drawn.video,
            cluster=f"{self.name}-{number}",
            kind=drawn.kind,
            small=drawn.small,
        )

    def draw(self, rng: np.random.Generator, number: int) -> Drawn:
        """Draw sample ``number`` with ``rng``, which is that sample's own."""
        raise NotImplementedError

    @classmethod
    def needed(cls) -> ModuleType:
        """Import the module of ``needs``; raises UnsupportedError saying how to install it."""
        module, package = cls.needs
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError:
            raise UnsupportedError(
                f"task {cls.name!r} needs the package {package}: pip install illava-lab"
            ) from None
