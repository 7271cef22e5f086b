"""PruMerge+: kept tokens absorb similar ones, and one token absorbs the dropped ones (arXiv 2403.15388).

After the encoder, each patch is scored by the attention of the class token in the encoder's last block,
computed as one head over the full width C: softmax(q k / sqrt(C)). Of a budget of T tokens, T - 1 are kept
patches: those with the highest scores, and some of the others at a uniform stride. To each kept patch is
added the score-weighted sum of the 32 other patches whose keys are nearest to its own (cosine over the full
width). The last token of the budget is the score-weighted sum of the dropped patches.

Departures and interpretations: the published method determines the number of kept patches by an outlier test;
here the budget is fixed, and half of the T - 1 are chosen by score. The 32 nearest are searched among all
other patches, kept ones included. Scores are normalised over the patches, so they sum to one over a segment.
The extra token takes the index of the highest-scored dropped patch. For an encoder without a class token, the
score is the mean attention that a patch receives, with the same single head. Where a patch merger folds
several patches into one unit, the score and the key of the unit are their means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.graphs import captured
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .after_encoder import BudgetStep, cosines, others, ranked, share_of, strided, survivors, take
from .base import Method
from .checks import check_count, check_share
from .steps import EncoderAttention, Plan, Units

DEFAULT_KEEP = 0.25
"""Share that the published method keeps on average."""


@dataclass(frozen=True)
class PruMergePlus(Method):
    """Keep the units that the class token attends to and others at a uniform stride, and merge similar units
    into them ("LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models",
    arXiv 2403.15388).

    Args:
        keep: share of all visual tokens left at the end, in (0, 1]. It is exact for the projector's input of
            each picture, tile or frame; newlines that a family adds later (LLaVA-NeXT, OneVision) are all
            kept. None: 1/4.
        top: share of the kept units (except the one that absorbs the dropped units) chosen by score, in
            (0, 1], at least one; the others are chosen at a uniform stride.
        neighbours: maximum number of units that a kept unit absorbs.

    Raises ValueError for values out of range.
    """

    name: ClassVar[str] = "prumerge+"

    keep: float | None = None
    top: float = 0.5
    neighbours: int = 32

    def __post_init__(self) -> None:
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))
        object.__setattr__(self, "top", check_share("top", self.top))
        check_count("neighbours", self.neighbours, 1)

    def plan(self, modules: LocatedModules) -> Plan:
        keep = DEFAULT_KEEP if self.keep is None else self.keep
        return Plan(projector=PruMergePlusStep(keep, self.top, self.neighbours))


@dataclass(frozen=True)
class PruMergePlusStep(BudgetStep):
    """Kept units absorb their neighbours; one additional unit absorbs the dropped ones."""

    last_block: ClassVar[bool] = True

    top: float
    neighbours: int

    @property
    def absorbs_all(self) -> bool:
        return True

    def observe_encoder(self, attention: EncoderAttention) -> Tensor:
        """(B, n, 1 + C): score and key of each token."""
        wide = one_head(attention)
        return torch.cat([wide.by_class()[..., None], wide.key[:, 0].float()], dim=-1)

    def reduce(self, units: Units) -> MergedSegments | None:
        assert units.seen is not None
        seen = units.seen.mean(1)
        reducer = partial(absorb, top=self.top, neighbours=self.neighbours)
        counts = units.counts(self.keep)
        return reduce_segments(reducer, units.lengths, counts, units.vectors, seen[:, 0], seen[:, 1:])


def one_head(attention: EncoderAttention) -> EncoderAttention:
    """The same attention as a single head over the full width C, scaled by 1 / sqrt(C)."""
    query, key = attention.query, attention.key
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    query, key = (part.transpose(1, 2).flatten(2)[:, None] for part in (query, key))
    return replace(attention, query=query, key=key, scaling=query.shape[-1] ** -0.5)


@captured
def absorb(p: int, units: Tensor, scores: Tensor, keys: Tensor, *, top: float, neighbours: int) -> Merged:
    """(S, n, D) units, (S, n) scores >= 0 and (S, n, C) keys to p units per segment, one of them extra."""
    n = units.shape[1]
    # Over the patches only, without the class token's attention to itself.
    shares = scores / scores.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    order = ranked(scores)
    best = order[:, : share_of(p - 1, top)]
    kept = torch.cat([best, strided(others(best, n), p - 1 - best.shape[1])], dim=1)
    similarity = cosines(take(keys, kept), keys).scatter(2, kept[..., None], float("-inf"))
    nearest = similarity.argsort(dim=2, descending=True, stable=True)[..., : min(neighbours, n - 1)]
    # A matrix of weights, mostly zero: gathering the neighbours would need many times the memory.
    near = torch.zeros_like(similarity).scatter(2, nearest, 1) * shares[:, None]
    dropped = others(kept, n)
    extra = dropped.gather(1, ranked(take(scores, dropped))[:, :1])
    rest = shares.scatter(1, kept, 0)[:, None]

    def change(x: Tensor) -> Tensor:
        return torch.cat([take(x, kept) + near @ x, rest @ x], dim=1)

    return survivors(units, kept[:, :0], torch.cat([kept, extra], dim=1), change)
