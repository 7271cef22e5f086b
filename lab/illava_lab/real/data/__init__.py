"""Training scenes and tasks of photographs and documents.

``stream("photo", "train", seed=0)(7)`` is a :class:`Scene`, a pure function of name, split, seed and number.
The picture sets are found as :func:`data_folder` says; none of them is part of this package. Scenes of a
split use photographs of that split only: see :func:`illava_lab.real.data.sets.lines`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ...drawing.streams import SPLITS, scene_rng
from . import board, cards, collage, forms, nlvr, photo, receipts, signs, words
from .scene import Draw, Scene, Turn
from .sets import data_folder

__all__ = ["MIXTURE", "STREAMS", "Scene", "Stream", "Turn", "data_folder", "stream"]


class Stream(NamedTuple):
    """An endless kind of scenes."""

    number: int
    """The number of its random stream, which must be unique and never change."""
    description: str
    draw: Callable[[str, Path], Draw]
    """``draw(split, folder)`` returns the function that draws a scene."""


STREAMS: dict[str, Stream] = {
    "photo": Stream(101, "One photograph of a piece of clothing, a grocery item or a hand sign.", photo.draw),
    "collage": Stream(102, "2 x 2 to 4 x 4 labelled photographs.", collage.draw),
    "board": Stream(103, "Small labelled photographs on a background.", board.draw),
    "cards": Stream(104, "Playing cards on a table.", cards.draw),
    "nlvr": Stream(105, "Drawn shapes in three boxes.", nlvr.draw),
    "words": Stream(106, "Words and numbers on a photograph.", words.draw),
    "receipts": Stream(107, "Printed receipts.", receipts.draw),
    "forms": Stream(108, "Filled-in forms.", forms.draw),
    "signs": Stream(109, "Signposts.", signs.draw),
    "four": Stream(110, "2 x 2 labelled photographs.", partial(collage.draw, rows=2)),
    "big": Stream(111, "One or two large words and numbers.", partial(words.draw, big=True)),
}
"""All streams of training scenes by name. None reads ``sets.LOCAL_SETS``."""

MIXTURE: dict[str, float] = {
    "photo": 0.22,
    "four": 0.06,
    "collage": 0.12,
    "board": 0.14,
    "cards": 0.08,
    "nlvr": 0.08,
    "words": 0.06,
    "big": 0.04,
    "receipts": 0.09,
    "forms": 0.06,
    "signs": 0.05,
}
"""The share of scenes that each stream has in training by default: about 40 % of their turns are small."""


def stream(name: str, split: str, seed: int, folder: Path | None = None) -> Callable[[int], Scene]:
    """The scenes of stream ``name`` by number, from 0.

    Args:
        split: "train", "val" (6 % of the training pictures, held out for choices) or "test".
        seed: 0 or more.
        folder: the picture sets; default: as :func:`data_folder` says.

    Raises ValueError for an unknown name, split or seed; InputError, a ValueError, if the sets are missing.
    The returned function raises IndexError below 0.
    """
    if name not in STREAMS:
        raise ValueError(f"unknown stream {name!r}; the streams are {', '.join(STREAMS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    if operator.index(seed) < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    entry = STREAMS[name]
    draw = entry.draw(split, data_folder(folder))

    def scene(number: int) -> Scene:
        if operator.index(number) < 0:
            raise IndexError(f"scenes are numbered from 0, there is no {number}")
        rng = scene_rng(seed, split, entry.number, operator.index(number))
        return draw(rng).scene(rng)

    return scene
