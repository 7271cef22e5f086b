"""PruMerge+: kept tokens absorb near ones, one more token stands for the rest (arXiv 2403.15388).

After the encoder each patch is scored by the attention that the class token's query pays its key in the
encoder's last block, taken as one head over the full width C: softmax(q k / sqrt(C)). Of a budget of T, one
token is set aside and T - 1 patches stay: the best by that score, and of the others, in their order, some
at a uniform stride. Each of them adds the score-weighted sum of the 32 other patches whose keys are nearest
to its own (cosine over the full width). The token set aside is the score-weighted sum of the dropped ones.

Where this departs or had to interpret: the published method lets an outlier test decide how many stay; here
the budget is fixed, and half of the T - 1 are the best. The 32 nearest are sought among all other patches,
those that stay included. Scores are the shares of the patches alone, so they sum to one over a segment. The
extra token takes the place of the highest-scored dropped patch. An encoder without a class token is read by
the mean attention that each patch receives, with the same single head; where a patch merger folds several
patches into one, score and key of that unit are the means of theirs, as the attention sees them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .after_encoder import BudgetStep, cosines, others, ranked, share_of, strided, survivors, take
from .base import Method
from .checks import check_count, check_share
from .steps import EncoderAttention, Plan, Units

DEFAULT_KEEP = 0.25
"""What the published method keeps on average."""


@dataclass(frozen=True)
class PruMergePlus(Method):
    """Keep the units that the class token looks at and some at a stride, and add what is near them
    ("LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", arXiv 2403.15388).

    Args:
        keep: final visual tokens / all, in (0, 1]; exact for what each picture, tile or frame hands the
            projector, while line ends that a family adds after it (LLaVA-NeXT, OneVision) all stay.
            None: 1/4.
        top: share of those kept (but for the one that stands for the dropped) that is chosen by score, in
            (0, 1], at least one; the others stand at a uniform stride.
        neighbours: units that a kept one absorbs, at most.

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
    """Kept units absorb their neighbours; one more unit absorbs the dropped ones."""

    last_block: ClassVar[bool] = True

    top: float
    neighbours: int

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


def absorb(p: int, units: Tensor, scores: Tensor, keys: Tensor, *, top: float, neighbours: int) -> Merged:
    """(S, n, D) units, (S, n) scores >= 0 and (S, n, C) keys to p - 1 kept units and one more a segment."""
    n = units.shape[1]
    # Of the patches alone: a class token's attention to itself is nobody's share.
    shares = scores / scores.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    order = ranked(scores)
    best = order[:, : share_of(p - 1, top)]
    kept = torch.cat([best, strided(others(best, n), p - 1 - best.shape[1])], dim=1)
    similarity = cosines(take(keys, kept), keys).scatter(2, kept[..., None], float("-inf"))
    nearest = similarity.argsort(dim=2, descending=True, stable=True)[..., : min(neighbours, n - 1)]
    # A matrix of weights, mostly zero: what it would gather is many times larger.
    near = torch.zeros_like(similarity).scatter(2, nearest, 1) * shares[:, None]
    dropped = others(kept, n)
    place = dropped.gather(1, ranked(take(scores, dropped))[:, :1])
    rest = shares.scatter(1, kept, 0)[:, None]

    def change(x: Tensor) -> Tensor:
        return torch.cat([take(x, kept) + near @ x, rest @ x], dim=1)

    return survivors(units, kept[:, :0], torch.cat([kept, place], dim=1), change)
