"""Selection of the units that cover a segment best.

Merging every dropped unit into its most similar survivor changes a unit little if a survivor is similar to
it. The greedy rule below looks for such survivors, as "SCOPE" (arXiv 2510.24214) does. Sizes are not in that
paper: where units have been merged before, all original units are to be covered.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import selection
from .graphs import captured
from .precision import full_precision

RESOLUTION = 2**14
"""Similarities are whole multiples of 1 / RESOLUTION. Sums of whole numbers are exact: whatever the order in
which a device adds them, equal gains are equal, and the earlier unit is selected."""


@full_precision
def coverage_ranking(units: Tensor, scores: Tensor, p: int, sizes: Tensor | None = None) -> Tensor:
    """Rank units by how much better each covers the segment, given those selected before it.

    A unit is covered by the largest cosine similarity to a selected unit, by 0 before the first. The gain of
    a unit is the sum over all units of the increase in coverage if it were selected, each weighted by its
    size. Repeatedly selects the unit with the largest product of gain and score; of equal ones the earlier.
    In segments of more than ``MAX_PAIRWISE_UNITS`` units, only as many evenly spaced units are covered as
    keeps the number of similarities at ``MAX_PAIRWISE_UNITS ** 2``.

    On a CPU a round takes O(n) for each unit whose coverage the last one has increased, elsewhere O(n^2).

    Args:
        units: (S, n, D), any floating dtype.
        scores: (S, n) fp32, not negative.
        p: number of units to rank, 1 <= p <= n.
        sizes: (S, n) fp32 whole numbers, how many original units each unit stands for; None: one each. Their
            sum must be less than 2^31 / RESOLUTION, or 131,072.

    Returns (S, n) fp32: n for the first unit, n - 1 for the second, and so on; 0 for the others.
    """
    weights = torch.ones_like(scores, dtype=torch.float32) if sizes is None else sizes
    return _captured_ranking(units, scores, weights, p)


def ranking_by_operations(units: Tensor, scores: Tensor, weights: Tensor, p: int) -> Tensor:
    """:func:`coverage_ranking` with PyTorch operations."""
    count = units.shape[1]
    similar, covered = _similarities(units)
    weights = weights.round().int()[:, covered]
    rank = torch.zeros_like(scores, dtype=torch.float32)
    coverage = torch.zeros_like(weights)
    gain = _increase(similar, coverage, torch.full_like(coverage, RESOLUTION), weights)
    for step in range(p):
        newest = (gain * scores).masked_fill(rank > 0, -torch.inf).argmax(1, keepdim=True)
        rank.scatter_(1, newest, float(count - step))
        of_newest = similar.gather(2, newest[:, None].expand(-1, similar.shape[1], 1)).squeeze(2)
        after = torch.maximum(coverage, of_newest)
        gain -= _increase(similar, coverage, after, weights)
        coverage = after
    return rank


_captured_ranking = captured(ranking_by_operations)


def _similarities(units: Tensor) -> tuple[Tensor, Tensor]:
    """(S, m, n) int32, the similarity of the units that are to be covered to all units; and (m,) their
    indices."""
    directions = torch.nn.functional.normalize(units.detach().float(), dim=-1)
    count = directions.shape[1]
    most = selection.MAX_PAIRWISE_UNITS
    rows = count if count <= most else max(1, most**2 // count)
    covered = torch.arange(0, rows * count, count, device=units.device) // rows
    cosines = directions[:, covered] @ directions.transpose(1, 2)
    return cosines.mul_(RESOLUTION).round_().int(), covered


def _increase(similar: Tensor, before: Tensor, after: Tensor, weights: Tensor) -> Tensor:
    """(S, n) int32: the part of each unit's gain that a rise of coverage from ``before`` to ``after`` uses.

    Args:
        similar: (S, m, n) int32.
        before, after, weights: (S, m) int32.
    """
    if similar.device.type != "cpu":
        return _weighted_sum(similar, before, after, weights)
    # Late rounds increase the coverage of few units. Finding them would wait for another device.
    out = similar.new_empty(len(similar), similar.shape[2])
    for segment, grown in enumerate(after > before):
        rows = grown.nonzero().squeeze(1)
        values = (part[segment].index_select(0, rows) for part in (similar, before, after, weights))
        out[segment] = _weighted_sum(*values)
    return out


def _weighted_sum(similar: Tensor, before: Tensor, after: Tensor, weights: Tensor) -> Tensor:
    """The sum over m: (..., m, n) and (..., m) to (..., n)."""
    low = before[..., None]
    parts = similar.clamp(low, after[..., None]).sub_(low).mul_(weights[..., None])
    return parts.sum(-2, dtype=torch.int32)
