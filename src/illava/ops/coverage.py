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
    covered = covered_units(units.shape[1], units.device)
    similar = whole_cosines(units[:, covered], units)
    return covering_ranking(similar, weights.round().int()[:, covered], p, scores)


_captured_ranking = captured(ranking_by_operations)


def covering_ranking(rows: Tensor, weights: Tensor, p: int, scores: Tensor | None = None) -> Tensor:
    """Rank columns by how much better each covers the rows, given those selected before it.

    A row is covered by its largest value in a selected column, by 0 before the first. The gain of a column is
    the sum over the rows of the increase in coverage if it were selected. Repeatedly selects the column with
    the largest gain, or product of gain and score; of equal ones the earlier.

    Args:
        rows: (S, m, n) whole numbers in int32 or int64, not negative where it matters.
        weights: (S, m) whole factors of the rows' gains, in the same dtype, which must hold the sums.
        p: number of columns to rank, 1 <= p <= n.
        scores: (S, n) fp32, not negative; None: one each.

    Returns (S, n) fp32: n for the first column, n - 1 for the second, and so on; 0 for the others.
    """
    count = rows.shape[2]
    rank = torch.zeros(len(rows), count, dtype=torch.float32, device=rows.device)
    coverage = torch.zeros_like(weights)
    gain = _increase(rows, coverage, torch.full_like(coverage, torch.iinfo(rows.dtype).max), weights)
    for step in range(p):
        # Without scores it stays whole: numbers that differ must not be rounded to a tie.
        value, lowest = (gain, -1) if scores is None else (gain * scores, -torch.inf)
        newest = value.masked_fill(rank > 0, lowest).argmax(1, keepdim=True)
        rank.scatter_(1, newest, float(count - step))
        of_newest = rows.gather(2, newest[:, None].expand(-1, rows.shape[1], 1)).squeeze(2)
        after = torch.maximum(coverage, of_newest)
        gain -= _increase(rows, coverage, after, weights)
        coverage = after
    return rank


def covered_units(count: int, device: torch.device) -> Tensor:
    """(m,) int64: the indices of the units of a segment of ``count`` that are to be covered."""
    most = selection.MAX_PAIRWISE_UNITS
    rows = count if count <= most else max(1, most**2 // count)
    return torch.arange(0, rows * count, count, device=device) // rows


def whole_cosines(rows: Tensor, units: Tensor) -> Tensor:
    """(S, m, D) and (S, n, D), any floating dtype, to (S, m, n) int32: cosine similarities, in whole
    multiples of 1 / RESOLUTION."""
    a, b = (torch.nn.functional.normalize(part.detach().float(), dim=-1) for part in (rows, units))
    return (a @ b.transpose(1, 2)).mul_(RESOLUTION).round_().int()


def _increase(rows: Tensor, before: Tensor, after: Tensor, weights: Tensor) -> Tensor:
    """(S, n): the part of each column's gain that a rise of coverage from ``before`` to ``after`` uses.

    Args:
        rows: (S, m, n) int32 or int64.
        before, after, weights: (S, m), the same dtype.
    """
    if rows.device.type != "cpu":
        return _weighted_sum(rows, before, after, weights)
    # Late rounds increase the coverage of few rows. Finding them would wait for another device.
    out = rows.new_empty(len(rows), rows.shape[2])
    for segment, grown in enumerate(after > before):
        at = grown.nonzero().squeeze(1)
        values = (part[segment].index_select(0, at) for part in (rows, before, after, weights))
        out[segment] = _weighted_sum(*values)
    return out


def _weighted_sum(rows: Tensor, before: Tensor, after: Tensor, weights: Tensor) -> Tensor:
    """The sum over m: (..., m, n) and (..., m) to (..., n)."""
    low = before[..., None]
    parts = rows.clamp(low, after[..., None]).sub_(low).mul_(weights[..., None])
    return parts.sum(-2, dtype=rows.dtype)
