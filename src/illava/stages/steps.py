"""What a method asks of the stages: which layers merge, how much, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from ..merging import MergedSegments, Reduce, keep_count, merge_segments
from ..scoring import Score

Select = Literal["highest", "lowest", "random"]
SELECTS: tuple[str, ...] = get_args(Select)


@dataclass(frozen=True)
class Step:
    """One merge step: the share of a segment's units to keep and what becomes of the others."""

    keep: float
    """Share of the units there are at this step."""
    of_all: float | None = None
    """Share of the segment's units before any step, under a budget; takes precedence over ``keep``."""
    reduce: Reduce = "recycle"
    recycle: float = 0.05
    neighbours: int = 5
    score: Score = "exact"
    select: Select = "highest"
    """Which units stay: the highest-scored, or as controls the lowest-scored or random ones."""
    seed: int = 0
    """Of random units."""

    def count(self, n: int, of: int) -> int:
        """Units that stay of ``n``, in a segment that had ``of`` before any step."""
        if n == 0:
            return 0
        return keep_count(n, self.keep) if self.of_all is None else min(n, keep_count(of, self.of_all))

    def merge(
        self, units: Tensor, scores: Tensor, lengths: Sequence[int], of: Sequence[int]
    ) -> MergedSegments | None:
        """Merge consecutive segments of ``lengths`` units that had ``of`` units before any step.

        As :func:`illava.merging.merge_segments`; None when every unit stays.
        """
        counts = [self.count(n, before) for n, before in zip(lengths, of, strict=True)]
        return merge_segments(
            units,
            self._ranked(scores, lengths),
            lengths,
            counts,
            reduce=self.reduce,
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


@dataclass(frozen=True)
class Plan:
    """Every merge step of a method on one model; steps that keep everything are left out."""

    encoder: dict[int, Step] = field(default_factory=dict)
    """Image encoder block (0-based) -> the step after its attention."""
    llm: dict[int, Step] = field(default_factory=dict)
    """Decoder layer (0-based, >= 1) -> the step before it."""

    def __post_init__(self) -> None:
        for name in ("encoder", "llm"):
            steps = {k: s for k, s in sorted(getattr(self, name).items()) if s.keep < 1}
            object.__setattr__(self, name, steps)
