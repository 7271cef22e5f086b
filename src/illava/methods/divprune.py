"""DivPrune: keep the visual tokens that are most unlike one another (arXiv 2503.02175).

What the projector made of a run of visual tokens is compared by cosine. The first token chosen is the one
whose nearest neighbour is farthest away; after that always the one farthest from all chosen so far. No
attention and no text is looked at, so it all happens before the LLM begins.

Where the paper leaves something open: two distances that differ by no more than rounding are equal, and then
the token further left goes first. Tokens that a family puts among a picture's (OneVision's line ends) are
candidates like all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..models.located import LocatedModules
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .base import Method
from .checks import check_share
from .steps import AttentionSource, LlmStep, Plan, Units

TIE = 2.0**-20
"""Cosines no further apart than this count as equal: products of the same two vectors differ by kernel."""
CHUNK_BYTES = 64 * 2**20
"""Most memory that cosines take at a time where all pairs are compared."""


@dataclass(frozen=True)
class DivPrune(Method):
    """Choose the most diverse visual tokens before the LLM, by max-min cosine distance.

    Args:
        keep: share of each run of visual tokens that stays, in (0, 1]. None: the published 0.098.

    Raises ValueError for values out of range.
    """

    name: ClassVar[str] = "divprune"

    keep: float | None = None

    def __post_init__(self) -> None:
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))

    def plan(self, modules: LocatedModules) -> Plan:
        return Plan(llm={0: DivPruneStep(0.098 if self.keep is None else self.keep)})


@dataclass(frozen=True)
class DivPruneStep(LlmStep):
    """The choice among the embeddings of visual tokens."""

    attention_source: ClassVar[AttentionSource] = "nothing"

    keep: float

    @property
    def keeps_all(self) -> bool:
        return self.keep >= 1

    def reduce(self, units: Units) -> MergedSegments | None:
        return reduce_segments(keep_diverse, units.lengths, units.counts(self.keep), units.vectors)


def keep_diverse(p: int, units: Tensor) -> Merged:
    """Keep the most diverse units of S segments, as they are.

    Args:
        p: units that stay, 1 <= p < n.
        units: (S, n, D), any floating dtype. Of equal distances the unit with the lower index is taken.
    """
    # What is no number is like nothing; left in, it would be chosen again and again.
    unit = normalize(units.detach().float(), dim=2).nan_to_num()
    rows = torch.arange(len(unit), device=unit.device)
    # The highest cosine of each unit with those that it must differ from; infinite once it is chosen.
    nearest = _nearest(unit)
    chosen = torch.zeros(len(unit), p, dtype=torch.int64, device=unit.device)
    for i in range(p):
        chosen[:, i] = pick = _first_lowest(nearest)
        similarity = (unit @ unit[rows, pick].unsqueeze(2)).squeeze(2)
        # Neighbours decide about the first alone.
        nearest = torch.maximum(nearest, similarity) if i else similarity
        nearest = nearest.scatter(1, pick[:, None], float("inf"))
    kept = chosen.sort(dim=1).values
    return Merged(units[rows[:, None], kept], kept)


def _nearest(unit: Tensor) -> Tensor:
    """(S, n, D) of length one to (S, n): each one's highest cosine with another."""
    segments, n, _ = unit.shape
    step = max(1, CHUNK_BYTES // (4 * segments * n))
    out = []
    for start in range(0, n, step):
        similarity = unit[:, start : start + step] @ unit.transpose(1, 2)
        itself = torch.arange(start, start + similarity.shape[1], device=unit.device)
        similarity[:, itself - start, itself] = -float("inf")
        out.append(similarity.amax(2))
    return torch.cat(out, 1)


def _first_lowest(values: Tensor) -> Tensor:
    """(S, n) to (S,): the first index of a value as low as the lowest."""
    # Of several ones argmax finds the first.
    return (values <= values.amin(1, keepdim=True) + TIE).int().argmax(1)
