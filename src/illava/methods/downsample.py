"""Down-sampling: the same picture, smaller. The control that every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..models.located import LocatedModules
from .base import Method
from .checks import check_share
from .steps import Plan


@dataclass(frozen=True)
class Downsample(Method):
    """Let the image encoder see a smaller picture, as the processor would have made it with fewer pixels.

    A grid of H x W units becomes h x w with h = max(1, round(H * sqrt(keep))), w likewise: so many tokens are
    left, which the report says, and not exactly the budget. Positions in the LLM are those of the small grid.
    Pictures are resized from what the processor made, bicubic with antialiasing.

    For models that take pictures of any size as one sequence of patches (Qwen-VL, GLM-4V); UnsupportedError
    for others, whose processor is to be given smaller pictures or fewer tiles.

    Args:
        keep: final visual tokens / all, about; default 1/4, half the width and height.

    Raises ValueError for values out of range.
    """

    name: ClassVar[str] = "downsample"

    keep: float | None = None

    def __post_init__(self) -> None:
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))

    def plan(self, modules: LocatedModules) -> Plan:
        keep = 0.25 if self.keep is None else self.keep
        return Plan(pixels=keep if keep < 1 else None, positions="compact")
