"""FastV: drop visual tokens at one early layer of the LLM (arXiv 2403.06764).

The score of a visual token is the attention that it receives from the last prompt token at the previous
layer, averaged over heads. The paper uses layer 2 and drops half. Tokens are dropped in prefill, and decoding
uses the shorter KV cache.

The scores are computed from the queries and keys of the previous layer, so no layer runs twice and no
attention matrix is materialised. In a prompt with several pictures, each run of visual tokens keeps the same
share.
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
        layer: decoder layer (0-based, >= 1) before which tokens are dropped. None: 2, or the nearest layer
            before which tokens can be dropped: Qwen3-VL's first layers add features of the full prompt, and
            in LLMs with sliding windows the scores come from a layer that attends to the whole prompt.
        keep: share of each run of visual tokens that is kept, in (0, 1]. None: 0.5.

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
