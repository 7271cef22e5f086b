"""Downsampling: encode a smaller picture. The baseline that every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..models.located import LocatedModules
from .base import Method
from .checks import check_share
from .steps import Plan


@dataclass(frozen=True)
class Downsample(Method):
    """Encode a smaller picture, as if the processor had been limited to fewer pixels.

    A grid of H x W units becomes h x w with h = max(1, round(H * sqrt(keep))), and w likewise. The number of
    tokens left, h * w, is in the report; it is close to the budget but seldom equal to it. Position ids in
    the LLM are those of the small grid. The processed pixels are resized bicubically with antialiasing.

    Only for models that encode pictures of any size, as one sequence of patches (Qwen-VL, GLM-4V) or whole
    (DINOv2 in LLaVA). For others it raises UnsupportedError: give their processor smaller pictures or fewer
    tiles.

    Args:
        keep: approximate share of visual tokens left at the end. None: 1/4, half the width and height.

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
