"""Random visual tokens: the baseline that every selection of tokens must beat.

The kept tokens of a segment depend on the seed and on the segment's length only. So the result of a prompt
does not depend on the rest of its batch, and pictures of equal size keep the same indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.merging import Merged, MergedSegments, reduce_segments
from ..ops.transfers import upload
from .base import Method
from .checks import check_choice, check_count, check_share
from .llm_layers import one_layer
from .steps import AttentionSource, LlmStep, Plan, Units

Stage = Literal["projector", "llm"]
STAGES: tuple[str, ...] = get_args(Stage)
DEFAULT_LAYER = 2


@dataclass(frozen=True)
class Random(Method):
    """Keep random visual tokens, each subset as likely as any other of its size.

    Args:
        keep: share of each run of visual tokens that is kept, in (0, 1]. None: 1/3. stage: "projector": drop
        projected features, before the LLM; "llm": drop tokens before ``layer``. layer: decoder layer
        (0-based, >= 1) before which tokens are dropped, for stage "llm" only. None: 2, or
            the first layer before which tokens can be dropped: Qwen3-VL's first layers add features of the
            full prompt.
        seed: random seed. For one seed, the tokens kept at a smaller share are a subset of those at a larger.

    Raises ValueError for values out of range, and from ``plan`` for a layer that the model does not have.
    """

    name: ClassVar[str] = "random"

    keep: float | None = None
    stage: Stage = "projector"
    layer: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))
        check_choice("stage", self.stage, STAGES)
        if self.layer is not None:
            check_count("layer", self.layer, 1)
        if check_count("seed", self.seed) >= 2**63:
            raise ValueError(f"seed must be a whole number below 2 ** 63, got {self.seed}")

    def plan(self, modules: LocatedModules) -> Plan:
        step = RandomStep(1 / 3 if self.keep is None else self.keep, self.seed)
        if self.stage == "projector":
            return Plan(llm={0: step})
        return Plan(llm={one_layer("layer", self.layer, DEFAULT_LAYER, modules, "nothing"): step})


@dataclass(frozen=True)
class RandomStep(LlmStep):
    """A random selection, in the LLM or before it."""

    attention_source: ClassVar[AttentionSource] = "nothing"

    keep: float
    seed: int = 0

    @property
    def keeps_all(self) -> bool:
        return self.keep >= 1

    def reduce(self, units: Units) -> MergedSegments | None:
        def reducer(p: int, vectors: Tensor) -> Merged:
            return keep_random(p, vectors, self.seed)

        return reduce_segments(reducer, units.lengths, units.counts(self.keep), units.vectors)


def keep_random(p: int, units: Tensor, seed: int) -> Merged:
    """Keep ``p`` of the n units of (S, n, D) segments, unchanged, at the same indices in each segment."""
    # Drawn on the CPU, so that a seed gives the same indices on every device.
    chosen = torch.randperm(units.shape[1], generator=torch.Generator().manual_seed(seed))[:p]
    kept = upload(chosen.sort().values, units.device)
    return Merged(units[:, kept], kept.expand(len(units), -1))
