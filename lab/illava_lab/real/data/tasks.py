"""Tasks of photographs and documents for ``illava eval --tasks real-clothing`` and the like.

They need the picture sets, see :func:`illava_lab.real.data.data_folder`, so commands use them only where they
are named. "test" asks about the val.jsonl of the sets, which neither training nor choices read; "val" about
what training holds out.
"""

from __future__ import annotations

import hashlib
import operator
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np

from illava.evaluation.samples import Sample

from ...drawing.streams import SPLITS, scene_rng
from . import STREAMS, data_folder, nlvr
from . import photographs as ph
from .scene import Ask, Drawing, is_small
from .sets import Line, lines
from .task_list import TASKS, OfSet, OfStream, group_of

ON_REQUEST = True
"""Commands do not use these tasks unless they are named."""
TRIES = 12  # scenes drawn for a question of the kind that is due
VERSION = 2  # raised when the drawn questions change


class SetTask:
    """Questions of a picture set, shuffled by ``seed`` so that the first few are about many pictures.

    ``guess`` is the accuracy of always giving the likeliest answer to each kind of question.
    """

    def __init__(self, name: str, spec: OfSet, split: str, seed: int, folder: Path):
        self.name, self.description, self.group = name, spec.description, group_of(name)
        self._set = folder / spec.set
        found = [line for line in lines(spec.set, split, folder) if not spec.kinds or line.kind in spec.kinds]
        order = np.random.default_rng([seed, list(TASKS).index(name)]).permutation(len(found))
        self._lines = [found[i] for i in order]
        self.fingerprint = _fingerprint(found)
        self.choices = tuple(sorted({answers(line)[0] for line in found})) if spec.closed else ()
        often = Counter((line.kind, answers(line)[0]) for line in found)
        best = {kind: max(n for (other, _), n in often.items() if other == kind) for kind, _ in often}
        self.guess = sum(best.values()) / max(1, len(found))

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> Sample:
        """Sample ``number``. Raises IndexError below 0 and from ``len()`` on."""
        line = self._lines[_checked(number, len(self))]
        picture = ph.load(line.picture)
        return Sample(
            task=self.name,
            number=number,
            question=line.question,
            answers=answers(line),
            pictures=(picture,),
            cluster=f"{self._set.name}-{line.picture.stem}",
            kind=line.kind,
            small=self._small(line, picture.size),
        )

    def _small(self, line: Line, size: tuple[int, int]) -> bool:
        if self._set.name == "nlvr":
            shapes = nlvr.records(self._set)[line.picture]
            return is_small([shape.place for shape in shapes], size)
        boxes = [box for _, box in line.boxes]
        if self._set.name == "sroie":  # each of its boxes holds the answer
            return any(is_small([box], size) for box in boxes)
        return bool(boxes) and is_small(boxes, size)


class StreamTask:
    """Generated questions, one a picture, each in the first of its wordings; kinds take turns.

    Pictures of a set can occur more than once, which the samples' ``cluster`` tells.
    """

    def __init__(self, name: str, spec: OfStream, split: str, seed: int, folder: Path):
        self.name, self.description, self.group = name, spec.description, group_of(name)
        self.choices, self.guess = spec.choices, spec.guess
        self._spec, self._split, self._seed = spec, split, seed
        self._draw = STREAMS[spec.stream].draw(split, folder)
        sets = {"cards": ("cards",), "nlvr": ("nlvr",)}.get(spec.stream, ph.SETS)
        used = [line for some in sets for line in lines(some, split, folder)]
        self.fingerprint = f"{VERSION}-{_fingerprint(used)}"

    def __len__(self) -> int:
        return self._spec.size

    def __getitem__(self, number: int) -> Sample:
        """Sample ``number``. Raises IndexError below 0 and from ``len()`` on."""
        drawing, ask = self._find(_checked(number, len(self)))
        return Sample(
            task=self.name,
            number=number,
            question=ask.wordings[0],
            answers=(ask.answer, *ask.also),
            pictures=(drawing.picture,),
            cluster=f"{self._spec.stream}-{drawing.source or f'{self.name}-{number}'}",
            kind=ask.kind,
            small=ask.small,
        )

    def _find(self, number: int) -> tuple[Drawing, Ask]:
        """The first scene of this number that allows a question of the kind due, or else of the next kind."""
        kinds, place = self._spec.kinds, list(TASKS).index(self.name)
        for attempt in range(TRIES * len(kinds)):
            kind = kinds[(number + attempt // TRIES) % len(kinds)]
            rng = scene_rng(self._seed, self._split, 1000 + place, number, attempt)
            drawing = self._draw(rng)
            for ask in drawing.asks:
                if ask.kind == kind:
                    return drawing, ask
        raise ValueError(f"{self.name}: the pictures of {self._split} allow no questions; give more pictures")


def names() -> tuple[str, ...]:
    """The names of all tasks; reads no file."""
    return tuple(TASKS)


def load(
    name: str, split: str = "test", seed: int = 0, folder: str | Path | None = None
) -> SetTask | StreamTask:
    """Task ``name`` of ``split``: "test", "val", or except for sets of evaluation only "train".

    Args:
        folder: the picture sets; default: as :func:`data_folder` says.

    Raises ValueError for an unknown name, split or seed; InputError, a ValueError, if the sets are missing.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    if operator.index(seed) < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    spec, found = TASKS[name], data_folder(folder)
    if isinstance(spec, OfSet):
        return SetTask(name, spec, split, seed, found)
    return StreamTask(name, spec, split, seed, found)


def answers(line: Line) -> tuple[str, ...]:
    """All right answers to a question of a set; parts that are all asked for count in any order."""
    if not line.all:
        return line.answers
    orders = permutations(line.answers) if len(line.answers) <= 4 else [line.answers]
    return tuple(dict.fromkeys(", ".join(order) for order in orders))


def _checked(number: int, count: int) -> int:
    if not 0 <= operator.index(number) < count:
        raise IndexError(f"samples are numbered from 0 to {count - 1}, there is no {number}")
    return operator.index(number)


def _fingerprint(some: Sequence[Line]) -> str:
    """A hash of the questions, so that a resumed run notices other pictures."""
    digest = hashlib.sha256()
    for line in some:
        digest.update(repr((line.picture.name, *line[1:])).encode())
    return digest.hexdigest()[:16]
