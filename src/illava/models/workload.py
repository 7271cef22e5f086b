"""What a prompt makes of a model: the units of its image encoder and the visual tokens of its LLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_STRETCHED = 200
"""Times that one side may be as long as the other: beyond it the processors of Qwen-VL and GLM-4V refuse."""

Size = tuple[int, int]
"""Width and height of a picture in pixels, or rows and columns of a grid."""


@dataclass(frozen=True)
class Run:
    """Visual tokens that follow one another in a prompt."""

    shown: tuple[tuple[int, int], ...]
    """(segment, tokens that its units have here) of each segment that it shows."""
    extra: int = 0
    """Tokens beside them that no step of the encoder takes: line ends, class tokens."""

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.extra + sum(count for _, count in self.shown)


@dataclass(frozen=True)
class Workload:
    """A prompt with pictures or a video, or a batch of equal ones."""

    segments: tuple[int, ...]
    """Units of each segment of the image encoder, of one prompt."""
    runs: tuple[Run, ...]
    """Of one prompt."""
    text: int
    """Tokens of one prompt that are not visual."""
    batch: int = 1
    grids: tuple[Size, ...] | None = None
    """Rows and columns, in units, of each segment of a packed encoder."""
    video: bool = False

    @property
    def visual_tokens(self) -> int:
        """Of one prompt."""
        return sum(run.tokens for run in self.runs)


def check_stretched(size: Size) -> None:
    """Raise ValueError for a picture whose sides differ by more than :data:`MOST_STRETCHED`."""
    if max(size) > MOST_STRETCHED * min(size):
        raise ValueError(
            f"a picture of {size[0]} x {size[1]}: one side may be {MOST_STRETCHED} times as long as the other"
        )


def first(value: int | Sequence[int]) -> int:
    """A side that a config states once, or for each direction."""
    return value if isinstance(value, int) else value[0]
