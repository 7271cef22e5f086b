"""PyramidDrop: drop visual tokens in stages, more of them the deeper the layer (arXiv 2410.17247).

Before layers 8, 16 and 24 of 32 a half, a quarter and an eighth of the original tokens stay. A visual token
is worth the attention of the last prompt token, by that layer's own norm, queries, keys and rotary
embedding, on the states that enter it. Positions of what is left are renumbered without gaps.

The published ratios halve from stage to stage; a budget, or another number of layers, gets the geometric
series that ends at its share. ``int(N * ratio)`` rounds down; of a budget the last stage keeps exactly
max(1, round(keep * N)), and no stage before it less than that. For a choice the layer's norm and attention
projections run once more, in the model's dtype; scores are fp32. The report's FLOPs leave that out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from ..models.located import LocatedModules
from ..ops.merging import keep_count
from .base import Method
from .checks import check_layers, check_share
from .llm_layers import carry_over, check_llm_layers, places
from .merge_step import MergeStep
from .steps import AttentionSource, Plan

PUBLISHED_LAYERS, PUBLISHED_DEPTH = (8, 16, 24), 32
PUBLISHED_KEEP = 0.125


@dataclass(frozen=True)
class PyramidDrop(Method):
    """Keep fewer and fewer of the visual tokens that the last prompt token attends to most.

    Args:
        layers: decoder layers (0-based, >= 1) before which tokens leave. None: 8, 16, 24 of 32, scaled to
            the LLM's depth; one too shallow for three stages gets the last of them.
        keep: share of each run of visual tokens that is left at the end, in (0, 1]: of m stages, stage i
            keeps keep ** (i / m). None: 0.5, 0.25 and 0.125, all rounded down.

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
                PUBLISHED_LAYERS, PUBLISHED_DEPTH, len(modules.layers), places(modules, "itself")
            )
        else:
            check_llm_layers("layers", self.layers, modules)
            layers = list(self.layers)
        total = PUBLISHED_KEEP if self.keep is None else self.keep
        # The last ratio is the share itself, whatever rounding makes of its powers.
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
    """Share left after the last stage, if one was given."""

    def count(self, n: int, of: int, grid: tuple[int, int] | None = None) -> int:
        if n == 0:
            return 0
        assert self.of_all is not None
        least = 1 if self.budget is None else keep_count(of, self.budget)
        return min(n, max(least, int(of * self.of_all)))
