"""VisPruner: what the class token looks at, and what differs most from the rest (arXiv 2412.01818).

After the encoder some of the budget goes to the patches that the class token looks at most (in the block
whose output the LLM sees, the mean over heads). From what is left over, near-duplicates are taken out
round by round: the units that are still there, in their order, are dealt into even and odd places, and
those even ones go that have the most similar partner among the odd ones (cosine of the vectors that enter
the projector), until the other part of the budget is left. All survivors stay as they are.

Where the specification left a choice: a round removes at most ``per_round`` units, so that many rounds with
a new dealing each decide, not the order of the patches; never more than are too many, nor than there are
even ones. Of equally similar ones the earlier goes first. An encoder without a class token is read by the
mean attention that each patch receives; where a patch merger folds several patches into one, that unit is
scored by their mean and its vector is theirs side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .after_encoder import BudgetStep, cosines, others, ranked, share_of, survivors, take
from .base import Method
from .checks import check_count, check_share
from .steps import Plan, Units

DEFAULT_KEEP = 128 / 576
"""64 important and 64 diverse tokens of LLaVA-1.5's 576."""


@dataclass(frozen=True)
class VisPruner(Method):
    """Keep the units that the class token looks at, and the most diverse of the rest ("Beyond Text-Visual
    Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs", arXiv 2412.01818).

    Args:
        keep: final visual tokens / all, in (0, 1]; exact for what each picture, tile or frame hands the
            projector, while line ends that a family adds after it (LLaVA-NeXT, OneVision) all stay.
            None: 128/576.
        important: share of those kept that is chosen by attention, in (0, 1]; at least one unit is.
        per_round: units that one round takes out as duplicates, at most.

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
    """The highest-scored units stay, and of the others the most diverse."""

    important: float
    per_round: int

    def reduce(self, units: Units) -> MergedSegments | None:
        reducer = partial(prune, important=self.important, per_round=self.per_round)
        return reduce_segments(reducer, units.lengths, units.counts(self.keep), units.vectors, units.scores)


def prune(p: int, units: Tensor, scores: Tensor, *, important: float, per_round: int) -> Merged:
    """Choose p of (S, n, D) units: share_of(p, important) by their (S, n) scores, the others by diversity."""
    best = ranked(scores)[:, : share_of(p, important)]
    rest = others(best, units.shape[1])
    diverse = take(rest, most_diverse(take(units, rest), p - best.shape[1], per_round))
    kept = torch.cat([best, diverse], dim=1)
    return survivors(units, kept, kept[:, :0])


def most_diverse(vectors: Tensor, count: int, per_round: int) -> Tensor:
    """(S, count) ascending indices of the (S, m, D) vectors that rounds of removal leave."""
    similarity = cosines(vectors, vectors)
    segments, m = similarity.shape[:2]
    rows = torch.arange(segments, device=vectors.device)[:, None, None]
    left = torch.arange(m, device=vectors.device).expand(segments, m)
    if not count:
        return left[:, :0]
    while (size := left.shape[1]) > count:
        even, odd = left[:, ::2], left[:, 1::2]
        closest = similarity[rows, even[:, :, None], odd[:, None, :]].amax(-1)
        staying = ranked(closest)[:, min(per_round, size - count) :]
        places = torch.arange(size, device=vectors.device)[1::2].expand(segments, -1)
        places = torch.cat([2 * staying, places], dim=1).sort(dim=1).values
        left = left.gather(1, places)
    return left
