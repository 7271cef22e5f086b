"""Samples of tasks: questions about images with known answers."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Sample:
    """One question about one or more images, or about a video."""

    task: str
    """The name of its task."""
    number: int
    """Its index in the task, from 0; together with task, split and seed it identifies the sample."""
    question: str
    answers: tuple[str, ...]
    """All correct answers; results show the first."""
    pictures: tuple[Image.Image, ...] = ()
    """RGB images, in the order of the prompt; they precede the question."""
    video: tuple[Image.Image, ...] = ()
    """RGB frames of equal size, in order of time; a sample has either images or a video."""
    cluster: str = ""
    """The same for all samples about an image; bootstrap intervals resample them together."""
    kind: str = ""
    """A subdivision of the task, e.g. "colour" in "attribute"."""
    small: bool = False
    """Whether the answer depends on an object that covers less than 3 % of its image."""

    def is_right(self, prediction: str) -> bool:
        """Whether it equals one of the answers, ignoring outer spaces, case and a final full stop."""
        return normalized(prediction) in {normalized(answer) for answer in self.answers}


def normalized(text: str) -> str:
    """Normalize for comparison: lower case, single spaces, no outer spaces, no final full stop."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()
