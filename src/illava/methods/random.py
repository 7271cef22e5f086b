"""Random visual tokens: the control that every choice of tokens must beat.

Which tokens of a segment stay depends on the seed and on how many there are, on nothing else; so a prompt's
result doesn't depend on the prompts beside it, and pictures of one size keep the same places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.merging import Merged, MergedSegments, reduce_segments
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
        keep: share of each run of visual tokens that stays, in (0, 1]. None: 1/3.
        stage: "projector": among what the projector made, before the LLM; "llm": before ``layer``.
        layer: decoder layer (0-based, >= 1) before which tokens leave, for stage "llm" alone. None: 2, or the
            first before which they can: Qwen3-VL's first layers take in features of the full prompt.
        seed: draws other tokens; with a seed a smaller share is a part of a larger one.

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
    """A random choice, in the LLM or before it."""

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
    """Keep ``p`` of the n units of each of (S, n, D) segments, as they are and the same of each."""
    # Drawn on the CPU, where a seed means the same on every machine.
    drawn = torch.randperm(units.shape[1], generator=torch.Generator().manual_seed(seed))[:p]
    kept = drawn.sort().values.to(units.device)
    return Merged(units[:, kept], kept.expand(len(units), -1))
