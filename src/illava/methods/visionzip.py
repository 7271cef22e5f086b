"""VisionZip: dominant tokens by the class token's attention, and contextual tokens (arXiv 2412.04467).

After the encoder, the patches that the class token attends to most are kept unchanged (dominant). The
attention is that of the block whose output the projector receives, over all heads. Of the other patches, some
at a uniform stride become targets, and each of the rest is assigned to the target with the most similar key
(cosine of keys averaged over heads, with the rotary embedding if the encoder has one). A target becomes its
own feature plus the mean of those assigned to it (contextual).

Departures: the published counts of dominant tokens include the class token, whose feature the LLM does not
receive here. All T tokens of a budget are patches, round(T * 10/64) of them contextual, as in the published
54 + 10, 108 + 20 and 162 + 30. The sum above is as published and about doubles the norm of a contextual
token; ``reduce="mean"`` halves it. For an encoder without a class token, the score is the mean attention that
a patch receives. Where a patch merger folds several patches into one unit, the score and the key of the unit
are their means.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.graphs import captured
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .after_encoder import BudgetStep, cosines, others, ranked, strided, survivors, take
from .base import Method
from .checks import check_choice, check_share
from .steps import EncoderAttention, Plan, Units

Reduce = Literal["sum", "mean"]
DEFAULT_KEEP = 192 / 576


@dataclass(frozen=True)
class VisionZip(Method):
    """Keep the units that the class token attends to, and merge the others into a few ("VisionZip: Longer is
    Better but Not Necessary in Vision Language Models", arXiv 2412.04467).

    Args:
        keep: share of all visual tokens left at the end, in (0, 1]. It is exact for the projector's input of
            each picture, tile or frame; newlines that a family adds later (LLaVA-NeXT, OneVision) are all
            kept. None: 1/3.
        contextual: share of the kept units that absorb the others, in (0, 1]. At least one unit is contextual
            and at least one is dominant; if a single unit is kept, it is dominant.
        reduce: how a contextual unit combines its own feature with the mean of those it absorbs: their "sum"
            (as published) or their "mean".

    Raises ValueError for values out of range.
    """

    name: ClassVar[str] = "visionzip"

    keep: float | None = None
    contextual: float = 10 / 64
    reduce: Reduce = "sum"

    def __post_init__(self) -> None:
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))
        object.__setattr__(self, "contextual", check_share("contextual", self.contextual))
        check_choice("reduce", self.reduce, get_args(Reduce))

    def plan(self, modules: LocatedModules) -> Plan:
        keep = DEFAULT_KEEP if self.keep is None else self.keep
        return Plan(projector=VisionZipStep(keep, self.contextual, self.reduce == "mean"))


@dataclass(frozen=True)
class VisionZipStep(BudgetStep):
    """The highest-scored units are kept, and some of the others absorb the rest."""

    contextual: float
    halve: bool

    @property
    def absorbs_all(self) -> bool:
        return True

    def observe_encoder(self, attention: EncoderAttention) -> Tensor:
        """(B, n, 1 + h): score and key of each token."""
        return torch.cat([attention.by_class()[..., None], attention.key.float().mean(1)], dim=-1)

    def reduce(self, units: Units) -> MergedSegments | None:
        assert units.seen is not None
        seen = units.seen.mean(1)
        reducer = partial(gather, contextual=self.contextual, halve=self.halve)
        counts = units.counts(self.keep)
        return reduce_segments(reducer, units.lengths, counts, units.vectors, seen[:, 0], seen[:, 1:])


def contextual_count(p: int, contextual: float) -> int:
    """Number of contextual units among ``p``: round(contextual * p), from 1 to p - 1; 0 for p = 1."""
    return min(p - 1, max(1, round(contextual * p)))


@captured
def gather(p: int, units: Tensor, scores: Tensor, keys: Tensor, *, contextual: float, halve: bool) -> Merged:
    """(S, n, D) units, (S, n) scores and (S, n, h) keys to p dominant and contextual units per segment."""
    n, c = units.shape[1], contextual_count(p, contextual)
    dominant = ranked(scores)[:, : p - c]
    targets = strided(others(dominant, n), c)
    dropped = others(torch.cat([dominant, targets], dim=1), n)
    if not c:
        return survivors(units, dominant, targets)
    similarity = cosines(take(keys, targets), take(keys, dropped))
    # argmax returns the first of several maxima.
    nearest = similarity.argmax(1, keepdim=True)
    assignment = torch.zeros_like(similarity).scatter(1, nearest, 1)
    absorbed = assignment.sum(2, keepdim=True)

    def change(x: Tensor) -> Tensor:
        values = take(x, targets)
        summed = values + assignment @ take(x, dropped) / absorbed.clamp(min=1)
        # A target that absorbs none is unchanged.
        return torch.where(absorbed > 0, summed / 2 if halve else summed, values)

    return survivors(units, dominant, targets, change)
