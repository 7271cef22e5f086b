"""FastV: drop visual tokens once, early in the LLM (arXiv 2403.06764).

A visual token is worth the attention that the last prompt token pays it one layer earlier, averaged over
heads. The paper does this at layer 2 and drops half; the choice is made at prefill and stays for decoding.

The attention of the layer before is read off beside the kernel, so no layer runs twice and no attention
matrix is made. With several pictures in a prompt each run of visual tokens keeps its own share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..models.located import LocatedModules
from .base import Method
from .checks import check_count, check_share
from .llm_layers import one_layer
from .merge_step import MergeStep
from .steps import Plan

PUBLISHED_LAYER = 2


@dataclass(frozen=True)
class FastV(Method):
    """Keep the visual tokens that the last prompt token attends to most, before one layer of the LLM.

    Args:
        layer: decoder layer (0-based, >= 1) before which tokens leave. None: 2, or the nearest one before
            which they can: Qwen3-VL's first layers take in features of the full prompt, and of layers some
            of which have sliding windows, those that see the whole prompt are asked.
        keep: share of each run of visual tokens that stays, in (0, 1]. None: 0.5.

    Raises ValueError for values out of range, and from ``plan`` for a layer that the model does not have.
    """

    name: ClassVar[str] = "fastv"

    layer: int | None = None
    keep: float | None = None

    def __post_init__(self) -> None:
        if self.layer is not None:
            check_count("layer", self.layer, 1)
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))

    def plan(self, modules: LocatedModules) -> Plan:
        layer = one_layer("layer", self.layer, PUBLISHED_LAYER, modules, "before")
        keep = 0.5 if self.keep is None else self.keep
        return Plan(llm={layer: MergeStep(keep, keep, "drop")})
