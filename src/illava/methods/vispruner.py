"""VisPruner: keep important tokens by the class token's attention, and diverse ones (arXiv 2412.01818).

After the encoder, a part of the budget is spent on the patches that the class token attends to most (in the
block whose output the projector receives, averaged over heads). From the others, near-duplicates are removed
in rounds until the rest of the budget is left. In each round, the remaining units are split into those at
even and at odd indices, and the even ones with the most similar odd unit are dropped (cosine of the
projector's input). All survivors are unchanged.

Where the specification leaves a choice: a round drops at most ``per_round`` units, so that the result depends
on many splits instead of on the order of the patches. It never drops more than exceed the budget, nor more
than there are even units. Ties are broken by dropping the lower index first. For an encoder without a class
token, the score is the mean attention that a patch receives. Where a patch merger folds several patches into
one unit, the score of the unit is their mean and its vector is their concatenation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.graphs import captured
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .after_encoder import BudgetStep, cosines, others, ranked, share_of, survivors, take
from .base import Method
from .checks import check_count, check_share
from .steps import Plan, Units

DEFAULT_KEEP = 128 / 576
"""64 important and 64 diverse tokens of LLaVA-1.5's 576."""


@dataclass(frozen=True)
class VisPruner(Method):
    """Keep the units that the class token attends to, and the most diverse of the rest ("Beyond Text-Visual
    Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs", arXiv 2412.01818).

    Args:
        keep: share of all visual tokens left at the end, in (0, 1]. It is exact for the projector's input of
            each picture, tile or frame; newlines that a family adds later (LLaVA-NeXT, OneVision) are all
            kept. None: 128/576.
        important: share of the kept units that are chosen by attention, in (0, 1]; at least one unit is.
        per_round: maximum number of duplicates that one round drops.

    Raises ValueError for values out of range.
    """

    name: ClassVar[str] = "vispruner"

    keep: float | None = None
    important: float = 0.5
    per_round: int = 8

    def __post_init__(self) -> None:
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))
        object.__setattr__(self, "important", check_share("important", self.important))
        check_count("per_round", self.per_round, 1)

    def plan(self, modules: LocatedModules) -> Plan:
        keep = DEFAULT_KEEP if self.keep is None else self.keep
        return Plan(projector=VisPrunerStep(keep, self.important, self.per_round))


@dataclass(frozen=True)
class VisPrunerStep(BudgetStep):
    """Keeps the highest-scored units, and the most diverse of the others."""

    important: float
    per_round: int

    def reduce(self, units: Units) -> MergedSegments | None:
        reducer = partial(prune, important=self.important, per_round=self.per_round)
        return reduce_segments(reducer, units.lengths, units.counts(self.keep), units.vectors, units.scores)


@captured
def prune(p: int, units: Tensor, scores: Tensor, *, important: float, per_round: int) -> Merged:
    """Choose p of (S, n, D) units: share_of(p, important) by their (S, n) scores, the others by diversity."""
    best = ranked(scores)[:, : share_of(p, important)]
    rest = others(best, units.shape[1])
    diverse = take(rest, most_diverse(take(units, rest), p - best.shape[1], per_round))
    kept = torch.cat([best, diverse], dim=1)
    return survivors(units, kept, kept[:, :0])


def most_diverse(vectors: Tensor, count: int, per_round: int) -> Tensor:
    """(S, count) ascending indices of the (S, m, D) vectors left after rounds of removing duplicates."""
    similarity = cosines(vectors, vectors)
    segments, m = similarity.shape[:2]
    rows = torch.arange(segments, device=vectors.device)[:, None, None]
    left = torch.arange(m, device=vectors.device).expand(segments, m)
    if not count:
        return left[:, :0]
    while (size := left.shape[1]) > count:
        even, odd = left[:, ::2], left[:, 1::2]
        closest = similarity[rows, even[:, :, None], odd[:, None, :]].amax(-1)
        kept_even = ranked(closest)[:, min(per_round, size - count) :]
        all_odd = torch.arange(size, device=vectors.device)[1::2].expand(segments, -1)
        kept = torch.cat([2 * kept_even, all_odd], dim=1).sort(dim=1).values
        left = left.gather(1, kept)
    return left
