"""The base class of tasks, whose samples are pure functions of split, seed and number."""

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
    """A drawn sample; the fields are those of :class:`Sample`."""

    kind: str
    question: str
    answer: str
    small: bool
    pictures: tuple[Image.Image, ...] = ()
    video: tuple[Image.Image, ...] = ()


class Task:
    """An infinite task: ``task[number]`` draws that sample without drawing the previous ones.

    Subclasses set the class attributes and override :meth:`draw`. Tasks of a fixed length also have ``len()``
    and raise IndexError at the end. Raises ValueError for an unknown split or a negative seed,
    UnsupportedError if a package that illava-lab installs is missing.
    """

    name: ClassVar[str]
    """The name for :func:`illava_lab.tasks.load`."""
    description: ClassVar[str]
    """One sentence that describes the task."""
    choices: ClassVar[tuple[str, ...]] = ()
    """All possible answers; empty if the answer is a text in the image."""
    guess: ClassVar[float]
    """The accuracy of always giving the likeliest answer to each question, without seeing the image."""
    group: ClassVar[str] = ""
    """"text" or "where"; see :class:`illava.evaluation.rows.Task`."""
    stream: ClassVar[int]
    """The number of the task's random stream, which must be unique and never change."""
    needs: ClassVar[tuple[str, str] | None] = None
    """An optional module, and the package that contains it."""

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
        """Return sample ``number``, independently of what was drawn before. Raises IndexError below 0."""
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
        """Draw sample ``number`` with its random generator ``rng``."""
        raise NotImplementedError

    @classmethod
    def needed(cls) -> ModuleType:
        """Import the module of ``needs``. Raises UnsupportedError if it is missing."""
        module, package = cls.needs
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError:
            raise UnsupportedError(
                f"task {cls.name!r} needs the package {package}: pip install illava-lab"
            ) from None
