"""The merge weights of a step: which survivor absorbed which unit, and with what weight.

Once a step has chosen which units to combine, its survivors are a linear map of the input units. The map is
applied to one-hot vectors, so that the weights describe exactly what the step computed. Weights are computed
only for ``accelerate(trace=True)``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .precision import full_precision
from .segments import Block, MergedSegments

MAX_ELEMENTS = 2**24
"""Number of elements of the one-hot vectors in one call of the map, approximately."""


class MergeWeights(NamedTuple):
    """Which units each survivor of a step is made of: K pairs, sorted by survivor, then by source."""

    into: Tensor
    """(K,) int64: index among the survivors."""
    source: Tensor
    """(K,) int64: index among the input units."""
    weight: Tensor
    """(K,) fp32: the survivor is the sum of its sources, each times its weight."""


@full_precision
def merge_weights(merged: MergedSegments) -> MergeWeights:
    """All pairs of survivors and sources of a step. The source of an unchanged survivor is itself."""
    if not merged.blocks:
        return _unchanged(merged.kept)
    found = [part for block in merged.blocks for part in _of_block(block, merged.kept)]
    into, source, weight = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = (into * (int(source.max()) + 1) + source).argsort()
    return MergeWeights(into[order], source[order], weight[order])


def _unchanged(kept: Tensor) -> MergeWeights:
    return MergeWeights(
        torch.arange(len(kept), device=kept.device), kept, torch.ones_like(kept, dtype=torch.float32)
    )


def _of_block(block: Block, kept: Tensor) -> list[MergeWeights]:
    rows, survivors = block.rows.to(kept.device), block.survivors.to(kept.device)
    segments, n = rows.shape
    if block.linear_map is None:
        into = survivors.flatten()
        return [MergeWeights(into, kept[into], torch.ones_like(into, dtype=torch.float32))]
    out = []
    width = max(1, MAX_ELEMENTS // (segments * n))
    with torch.no_grad():
        for first in range(0, n, width):
            sources = torch.arange(first, min(n, first + width), device=kept.device)
            one_hot = (torch.arange(n, device=kept.device)[:, None] == sources).float()
            weights = block.linear_map(one_hot.expand(segments, -1, -1))
            segment, survivor, source = weights.nonzero(as_tuple=True)
            out.append(
                MergeWeights(
                    survivors[segment, survivor],
                    rows[segment, source + first],
                    weights[segment, survivor, source],
                )
            )
    return out
