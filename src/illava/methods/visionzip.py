"""VisionZip: dominant tokens by the class token's attention, the others gathered (arXiv 2412.04467).

After the encoder the patches that the class token looks at most stay as they are (dominant; attention in
the block whose output the LLM sees, all heads together). Of the others, in their order, some at a uniform
stride become targets; every further one goes to the target whose key is most similar (cosine of keys, the
mean over heads, with the rotary embedding where the encoder has one), and a target becomes itself plus the
mean of what went to it (contextual).

Where this departs: the published counts of dominant tokens include the class token, whose feature the LLM
is not given here; all of a budget of T are patches, round(T * 10/64) of them contextual, as in the published
54 + 10, 108 + 20 and 162 + 30. The sum above is as published and makes a contextual token about twice as
long as others; ``reduce="mean"`` halves it. An encoder without a class token is read by the mean attention
that each patch receives; where a patch merger folds several patches into one, score and key of that unit
are the means of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .after_encoder import BudgetStep, cosines, others, ranked, strided, survivors, take
from .base import Method
from .checks import check_choice, check_share
from .steps import EncoderAttention, Plan, Units

Reduce = Literal["sum", "mean"]
DEFAULT_KEEP = 192 / 576


@dataclass(frozen=True)
class VisionZip(Method):
    """Keep the units that the class token looks at, and gather the others into a few ("VisionZip: Longer is
    Better but Not Necessary in Vision Language Models", arXiv 2412.04467).

    Args:
        keep: final visual tokens / all, in (0, 1]; exact for what each picture, tile or frame hands the
            projector, while line ends that a family adds after it (LLaVA-NeXT, OneVision) all stay.
            None: 1/3.
        contextual: share of those kept that gathers the others, in (0, 1]; at least one unit does, and at
            least one does not. A single unit left is a dominant one.
        reduce: what a contextual unit becomes: itself and the mean of what it gathers, their "sum" (as
            published) or their "mean".

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
    """The highest-scored units stay, some of the others gather the rest."""

    contextual: float
    halve: bool

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
    """Contextual units among ``p``: round(contextual * p), from 1 to p - 1; none of a single one."""
    return min(p - 1, max(1, round(contextual * p)))


def gather(p: int, units: Tensor, scores: Tensor, keys: Tensor, *, contextual: float, halve: bool) -> Merged:
    """(S, n, D) units, (S, n) scores and (S, n, h) keys to p dominant and contextual units a segment."""
    n, c = units.shape[1], contextual_count(p, contextual)
    dominant = ranked(scores)[:, : p - c]
    targets = strided(others(dominant, n), c)
    going = others(torch.cat([dominant, targets], dim=1), n)
    if not c:
        return survivors(units, dominant, targets)
    similarity = cosines(take(keys, targets), take(keys, going))
    # A stable sort rather than argmax: of equally similar targets the first, whatever the kernel.
    nearest = similarity.argsort(dim=1, descending=True, stable=True)[:, :1]
    goes = torch.zeros_like(similarity).scatter(1, nearest, 1)
    went = goes.sum(2, keepdim=True)

    def change(x: Tensor) -> Tensor:
        values = take(x, targets)
        summed = values + goes @ take(x, going) / went.clamp(min=1)
        # A target to which nothing went stays as it is.
        return torch.where(went > 0, summed / 2 if halve else summed, values)

    return survivors(units, dominant, targets, change)
