"""DivPrune: keep the most diverse visual tokens (arXiv 2503.02175).

The projected features of a run of visual tokens are compared by cosine distance. The first token selected is
the one whose nearest neighbour is farthest away; then repeatedly the one farthest from those selected. The
method uses neither attention nor text, so it runs before layer 0 of the LLM.

Where the paper leaves a choice: distances that differ only by rounding are ties, which are broken by the
lower index. Tokens that a family inserts among those of a picture (OneVision's newlines) are candidates as
well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..models.located import LocatedModules
from ..ops.graphs import captured
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .base import Method
from .checks import check_share
from .steps import AttentionSource, LlmStep, Plan, Units

TIE = 2.0**-20
"""Cosines that differ by at most this are ties: the product of the same two vectors depends on the kernel."""
CHUNK_BYTES = 64 * 2**20
"""Maximum size of one chunk of the matrix of all pairwise cosines."""


@dataclass(frozen=True)
class DivPrune(Method):
    """Choose the most diverse visual tokens before the LLM, by max-min cosine distance.

    Args:
        keep: share of each run of visual tokens that is kept, in (0, 1]. None: the published 0.098.

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
    """The selection among the embeddings of visual tokens."""

    attention_source: ClassVar[AttentionSource] = "nothing"

    keep: float

    @property
    def keeps_all(self) -> bool:
        return self.keep >= 1

    def reduce(self, units: Units) -> MergedSegments | None:
        return reduce_segments(keep_diverse, units.lengths, units.counts(self.keep), units.vectors)


@captured
def keep_diverse(p: int, units: Tensor) -> Merged:
    """Keep the most diverse units of S segments, unchanged.

    Args:
        p: units to keep, 1 <= p < n.
        units: (S, n, D), any floating dtype. Ties in distance are broken by the lower index.
    """
    # NaN becomes 0, which is similar to nothing: otherwise it would be selected repeatedly.
    unit = normalize(units.detach().float(), dim=2).nan_to_num()
    rows = torch.arange(len(unit), device=unit.device)
    # Highest cosine of each unit with all others, then with those selected; infinite for selected units.
    nearest = _nearest(unit)
    selected = torch.zeros(len(unit), p, dtype=torch.int64, device=unit.device)
    for i in range(p):
        selected[:, i] = pick = _first_lowest(nearest)
        similarity = (unit @ unit[rows, pick].unsqueeze(2)).squeeze(2)
        # All others matter for the first selection only.
        nearest = torch.maximum(nearest, similarity) if i else similarity
        nearest = nearest.scatter(1, pick[:, None], float("inf"))
    kept = selected.sort(dim=1).values
    return Merged(units[rows[:, None], kept], kept)


def _nearest(unit: Tensor) -> Tensor:
    """(S, n, D) unit vectors to (S, n): the highest cosine of each with any other."""
    segments, n, _ = unit.shape
    step = max(1, CHUNK_BYTES // (4 * segments * n))
    out = []
    for start in range(0, n, step):
        similarity = unit[:, start : start + step] @ unit.transpose(1, 2)
        similarity[:, :, start:].diagonal(dim1=1, dim2=2).fill_(-float("inf"))
        out.append(similarity.amax(2))
    return torch.cat(out, 1)


def _first_lowest(values: Tensor) -> Tensor:
    """(S, n) to (S,): the first index of a value within :data:`TIE` of the minimum."""
    # argmax returns the first of several ones.
    return (values <= values.amin(1, keepdim=True) + TIE).int().argmax(1)
