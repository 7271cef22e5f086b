"""PyramidDrop: drop visual tokens in several stages of the LLM (arXiv 2410.17247).

Before layers 8, 16 and 24 of 32, a half, a quarter and an eighth of the original tokens are kept. The score
of a visual token is the attention of the last prompt token at that same layer: its norm, queries, keys and
rotary embedding are applied to the hidden states that enter it. Positions of the remaining tokens are
renumbered without gaps.

The published ratios halve from stage to stage. A budget, or another number of layers, uses the geometric
series that ends at its share. ``int(N * ratio)`` rounds down; with a budget the last stage keeps exactly
max(1, round(keep * N)), and no earlier stage keeps less. To score tokens, the layer's norm and attention
projections run a second time, in the model's dtype; scores are fp32. The report's FLOPs exclude this.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from ..models.located import LocatedModules
from ..ops.merging import keep_count
from .base import Method
from .checks import check_layers, check_share
from .llm_layers import allowed_layers, carry_over, check_llm_layers
from .merge_step import MergeStep
from .steps import AttentionSource, Plan

PUBLISHED_LAYERS, PUBLISHED_DEPTH = (8, 16, 24), 32
PUBLISHED_KEEP = 0.125


@dataclass(frozen=True)
class PyramidDrop(Method):
    """Keep progressively fewer visual tokens: those that the last prompt token attends to most.

    Args:
        layers: decoder layers (0-based, >= 1) before which tokens are dropped. None: 8, 16, 24 of 32, scaled
            to the LLM's depth; an LLM too shallow for three stages runs the last of them.
        keep: share of each run of visual tokens left at the end, in (0, 1]. After stage i of m,
            keep ** (i / m) is left. None: 0.5, 0.25 and 0.125, all rounded down.

    Raises ValueError for values out of range, and from ``plan`` for layers that the model does not have.
    """

    name: ClassVar[str] = "pyramiddrop"

    layers: tuple[int, ...] | None = None
    keep: float | None = None

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", check_layers("layers", self.layers, 1))
            if not self.layers:
                raise ValueError("layers needs at least one layer, or None for the published ones")
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))

    def plan(self, modules: LocatedModules) -> Plan:
        stages = len(self.layers or PUBLISHED_LAYERS)
        if self.layers is None:
            layers = carry_over(
                PUBLISHED_LAYERS, PUBLISHED_DEPTH, len(modules.layers), allowed_layers(modules, "itself")
            )
        else:
            check_llm_layers("layers", self.layers, modules)
            layers = list(self.layers)
        total = PUBLISHED_KEEP if self.keep is None else self.keep
        # The last ratio is the share itself, regardless of rounding in its powers.
        ratios = [*(total ** (i / stages) for i in range(1, stages)), total][-len(layers) :]
        steps = [
            StageStep(ratio / before, ratio, reduction="drop", budget=self.keep)
            for before, ratio in pairwise([1.0, *ratios])
        ]
        return Plan(llm=dict(zip(layers, steps, strict=True)), positions="compact")


@dataclass(frozen=True)
class StageStep(MergeStep):
    """One stage: ``of_all`` of a segment's original tokens are kept, rounded down."""

    attention_source: ClassVar[AttentionSource] = "itself"

    budget: float | None = None
    """Share left after the last stage, if ``keep`` was given."""

    def count(self, n: int, of: int, grid: tuple[int, int] | None = None) -> int:
        if n == 0:
            return 0
        assert self.of_all is not None
        least = 1 if self.budget is None else keep_count(of, self.budget)
        return min(n, max(least, int(of * self.of_all)))
