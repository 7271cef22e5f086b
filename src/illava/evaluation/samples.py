"""What every task consists of: questions about pictures with known answers."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Sample:
    """One question about one or several pictures, or about a video."""

    task: str
    """Name of the task it belongs to."""
    number: int
    """Its place in the task, from 0: with task, split and seed it identifies the sample."""
    question: str
    answers: tuple[str, ...]
    """Every answer that counts as right; the first is the one to show."""
    pictures: tuple[Image.Image, ...] = ()
    """RGB pictures, in the order in which they stand before the question."""
    video: tuple[Image.Image, ...] = ()
    """RGB frames of equal size, oldest first; a sample has either pictures or a video."""
    cluster: str = ""
    """Samples about the same picture share it: they are resampled together in bootstrap intervals."""
    kind: str = ""
    """Finer than the task, for a breakdown: e.g. "colour" in "attribute"."""
    small: bool = False
    """Whether the answer hinges on something that covers under 3 % of its picture."""

    def is_right(self, prediction: str) -> bool:
        """Exact match with one of the answers, but for outer spaces, case and a final full stop."""
        return normalized(prediction) in {normalized(answer) for answer in self.answers}


def normalized(text: str) -> str:
    """``text`` as it is compared: lower case, spaces single, no outer spaces, no final full stop."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()
