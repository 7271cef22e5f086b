"""Nine kinds of task, each a seeded supply of pictures, questions and answers, scored by exact match.

``load("counting")[7]`` is a :class:`~illava.evaluation.samples.Sample`; the same call gives the same bytes
(as long as Pillow draws the same). What no two splits share: random streams, handwriting samples, words and
families of fonts (for how few those are, see ``illava_lab.drawing.lettering.FONTS``), and easy-VQA's pictures. A
picture of 192 x 192 pixels gives 144 visual tokens in the zoo's models, and so does a whole video.
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
    """Return the names of all tasks, as :func:`load` takes them."""
    return tuple(_TASKS)


def load(name: str, split: str = "test", seed: int = 0) -> Task:
    """Return task ``name``, its ``split`` ("train", "val" or "test") under ``seed``.

    Raises ValueError for an unknown name or split, UnsupportedError when a package is missing that the task
    needs, both in one line that says what is there or what to do.
    """
    if name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; the tasks are {', '.join(names())}")
    return _TASKS[name](split, seed)
