"""The step of iLLaVA: keep the highest-scored units, let a few of them take in what goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..merging import MergedSegments, Reduce, keep_count, merge_segments
from ..scoring import Score
from ..stages.steps import EncoderAttention, EncoderStep, LlmAttention, LlmStep, Units

Select = Literal["highest", "lowest", "random"]
SELECTS: tuple[str, ...] = get_args(Select)


@dataclass(frozen=True)
class MergeStep(EncoderStep, LlmStep):
    """One merge step, in the encoder or in the LLM."""

    keep: float
    """Share of the units there are at this step."""
    of_all: float | None = None
    """Share of the segment's units before any step, under a budget; takes precedence over ``keep``."""
    reduction: Reduce = "recycle"
    recycle: float = 0.05
    neighbours: int = 5
    score: Score = "exact"
    select: Select = "highest"
    """Which units stay: the highest-scored, or as controls the lowest-scored or random ones."""
    seed: int = 0
    """Of random units."""

    @property
    def keeps_all(self) -> bool:
        return self.keep >= 1

    def observe_encoder(self, attention: EncoderAttention) -> Tensor:
        return attention.received(self.score)

    def observe_llm(self, attention: LlmAttention, noted: Any) -> Tensor:
        return attention.by_last()

    def count(self, n: int, of: int) -> int:
        """Units that stay of ``n``, in a segment that had ``of`` before any step."""
        if n == 0:
            return 0
        return keep_count(n, self.keep) if self.of_all is None else min(n, keep_count(of, self.of_all))

    def reduce(self, units: Units) -> MergedSegments | None:
        counts = [self.count(n, before) for n, before in zip(units.lengths, units.full, strict=True)]
        return merge_segments(
            units.vectors,
            self._ranked(units.scores, units.lengths),
            units.lengths,
            counts,
            reduce=self.reduction,
            recycle=self.recycle,
            neighbours=self.neighbours,
        )

    def _ranked(self, scores: Tensor, lengths: Sequence[int]) -> Tensor:
        """What the units are ranked by, higher = keep."""
        if self.select == "highest":
            return scores
        if self.select == "lowest":
            return -scores
        # By length and seed alone, so that a prompt's result does not depend on those beside it.
        drawn = {n: torch.rand(n, generator=torch.Generator().manual_seed(self.seed)) for n in set(lengths)}
        return torch.cat([scores.new_empty(0), *(drawn[n].to(scores) for n in lengths)])
