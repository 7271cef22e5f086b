"""Nine tasks: seeded generators of images, questions and answers, scored by exact match.

``load("counting")[7]`` is a :class:`~illava.evaluation.samples.Sample`; the same call returns the same bytes
with the same version of Pillow. Splits share no random streams, handwriting samples, words, font families
(see ``illava_lab.drawing.lettering.FONTS`` for their number) or images of easy-VQA. An image of 192 x 192
pixels has 144 visual tokens in the zoo's models, and so has a whole video.
"""

from .attribute import Attribute
from .base import Task
from .counting import Counting
from .easy_vqa import EasyVQA
from .existence import Existence
from .multi_picture import MultiPicture
from .reading import Digits, Words
from .spatial import Spatial
from .video import Video

__all__ = ["Task", "load", "names"]

_TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (Attribute, Counting, Digits, Words, Spatial, Existence, MultiPicture, Video, EasyVQA)
}


def names() -> tuple[str, ...]:
    """Return the names of all tasks."""
    return tuple(_TASKS)


def load(name: str, split: str = "test", seed: int = 0) -> Task:
    """Return task ``name``, its ``split`` ("train", "val" or "test") under ``seed``.

    Raises ValueError for an unknown name or split, UnsupportedError if a package that the task needs is
    missing.
    """
    if name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; the tasks are {', '.join(names())}")
    return _TASKS[name](split, seed)
