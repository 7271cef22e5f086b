"""The workload of a prompt: the units of the image encoder and the visual tokens of the LLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_ASPECT_RATIO = 200
"""Maximum aspect ratio that the processors of Qwen-VL and GLM-4V accept."""

Size = tuple[int, int]
"""Width and height of a picture in pixels, or rows and columns of a grid."""


@dataclass(frozen=True)
class Run:
    """Consecutive visual tokens in a prompt."""

    segment_tokens: tuple[tuple[int, int], ...]
    """(index of the segment, number of its tokens in this run) of each segment in the run."""
    extra: int = 0
    """Further tokens, which the encoder stage cannot drop: newlines, class tokens, registers."""
    fixed: int = 0
    """Of ``extra``, the class tokens and registers, which the LLM stage cannot drop either."""

    @property
    def tokens(self) -> int:
        """Number of all tokens of the run."""
        return self.extra + sum(count for _, count in self.segment_tokens)


@dataclass(frozen=True)
class Workload:
    """A prompt with pictures or a video, or a batch of equal ones."""

    segments: tuple[int, ...]
    """Units of each segment of the image encoder, for one prompt."""
    runs: tuple[Run, ...]
    """Runs of visual tokens of one prompt."""
    text: int
    """Text tokens of one prompt."""
    batch: int = 1
    grids: tuple[Size, ...] | None = None
    """Rows and columns, in units, of each segment of a packed encoder."""
    video: bool = False

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of one prompt."""
        return sum(run.tokens for run in self.runs)


def check_aspect_ratio(size: Size) -> None:
    """Raise ValueError for a picture whose aspect ratio exceeds :data:`MAX_ASPECT_RATIO`."""
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise ValueError(
            f"a picture of {size[0]} x {size[1]}: the aspect ratio must not exceed {MAX_ASPECT_RATIO}"
        )


def first(value: int | Sequence[int]) -> int:
    """The value that a config states once, or once per dimension."""
    return value if isinstance(value, int) else value[0]
