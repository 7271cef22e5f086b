"""What went where in a merge step, and with what weight: read off the very functions that merged.

Cached a step has chosen, its survivors are a linear map of what was handed in. The map is asked what it makes
of unit vectors, so that what is told of a step is what it did. Nothing of this is computed unless asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .merging import Block, MergedSegments
from .precision import full_precision

MOST = 2**24
"""Numbers that one question takes, about."""


class MergeWeights(NamedTuple):
    """Which units a step's survivors are made of: K pairs, sorted by survivor, then by source."""

    into: Tensor
    """(K,) int64: index among the survivors."""
    source: Tensor
    """(K,) int64: index among the units that were handed in."""
    weight: Tensor
    """(K,) fp32: the survivor is the sum of its sources, each times its weight."""


@full_precision
def links(merged: MergedSegments) -> MergeWeights:
    """All pairs of survivors and sources of a step; a survivor that stays what it is has itself, at 1."""
    if not merged.blocks:
        return _stay(merged.kept)
    found = [part for block in merged.blocks for part in _of_block(block, merged.kept)]
    into, source, weight = (torch.cat(modules) for modules in zip(*found, strict=True))
    order = (into * (int(source.max()) + 1) + source).argsort()
    return MergeWeights(into[order], source[order], weight[order])


def _stay(kept: Tensor) -> MergeWeights:
    return MergeWeights(
        torch.arange(len(kept), device=kept.device), kept, torch.ones_like(kept, dtype=torch.float32)
    )


def _of_block(block: Block, kept: Tensor) -> list[MergeWeights]:
    segments, n = block.rows.shape
    if block.linear_map is None:
        into = block.survivors.flatten()
        return [MergeWeights(into, kept[into], torch.ones_like(into, dtype=torch.float32))]
    out = []
    width = max(1, MOST // (segments * n))
    with torch.no_grad():
        for first in range(0, n, width):
            asked = torch.arange(first, min(n, first + width), device=kept.device)
            unit = (torch.arange(n, device=kept.device)[:, None] == asked).float()
            answer = block.linear_map(unit.expand(segments, -1, -1))
            segment, survivor, source = answer.nonzero(as_tuple=True)
            out.append(
                MergeWeights(
                    block.survivors[segment, survivor],
                    block.rows[segment, source + first],
                    answer[segment, survivor, source],
                )
            )
    return out
