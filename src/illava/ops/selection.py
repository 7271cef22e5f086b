"""Selection of diverse units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import kernels
from .graphs import captured
from .precision import full_precision

if TYPE_CHECKING:
    from .kernels.selection import Selected

MAX_PAIRWISE_UNITS = 4096
"""Largest segment for which :func:`diverse_ranking` holds the distances of all pairs in memory."""
TIE = 2.0**-20
"""Units whose cosine distance is at most this are copies: their distance is zero. Without it, the rounding of
a kernel would decide which copies are selected first."""


def select_diverse(units: Tensor, scores: Tensor, p: int) -> Selected:
    """Kernels for :func:`diverse_ranking`, which also return the units that are closest to each survivor."""
    from .kernels import selection

    return selection.select_diverse(units, scores, p, tie=TIE, most_pairs=MAX_PAIRWISE_UNITS)


@full_precision
def diverse_ranking(units: Tensor, scores: Tensor, p: int) -> Tensor:
    """Rank units by max-min diversity.

    Selects the highest-scored unit first, then repeatedly the unit farthest from those selected. The distance
    of a unit is the cosine distance to the nearest selected unit, times the score of the unit. Of equally
    distant units the earlier one is selected. Takes p steps of O(n).

    Args:
        units: (S, n, D), any floating dtype.
        scores: (S, n) fp32, not negative.
        p: number of units to rank, 1 <= p <= n.

    Returns (S, n) fp32: n for the first unit, n - 1 for the second, and so on; 0 for the others.
    """
    if kernels.enabled(units, scores):
        return select_diverse(units, scores, p).rank
    return _captured_ranking(units, scores, p)


def ranking_by_operations(units: Tensor, scores: Tensor, p: int) -> Tensor:
    """:func:`diverse_ranking` with PyTorch operations."""
    directions = directions_of(units)
    if chooses_in_memory(units):
        return ranking_in_memory(pairwise_distances(directions), scores, p)
    count = units.shape[1]
    # If they fit, all distances at once are one large product instead of many small ones.
    distances = pairwise_distances(directions) if count <= MAX_PAIRWISE_UNITS else None
    rank = torch.zeros_like(scores, dtype=torch.float32)
    newest = scores.argmax(1, keepdim=True)
    nearest = torch.full_like(rank, float("inf"))
    for step in range(p):
        rank.scatter_(1, newest, float(count - step))
        if distances is not None:
            distance = distances.gather(1, newest[..., None].expand(-1, -1, count)).squeeze(1)
        else:
            one = directions.gather(1, newest[..., None].expand(-1, -1, units.shape[-1]))
            distance = _distances((directions @ one.transpose(1, 2)).squeeze(-1))
        nearest = torch.minimum(nearest, distance)
        newest = (nearest * scores).masked_fill(rank > 0, -torch.inf).argmax(1, keepdim=True)
    return rank


_captured_ranking = captured(ranking_by_operations)


def chooses_in_memory(units: Tensor) -> bool:
    """Whether (S, n, D) units are selected by NumPy, from the distances of all pairs."""
    return units.device.type == "cpu" and units.shape[1] <= MAX_PAIRWISE_UNITS


def ranking_in_memory(distances: Tensor, scores: Tensor, p: int) -> Tensor:
    """:func:`diverse_ranking` by (S, n, n) distances on a CPU.

    NumPy, because a round of a thousand units takes it a few microseconds, of which PyTorch would need ten
    times as many to start its operations.
    """
    given = scores.detach().float()
    rank = torch.zeros_like(given)
    count = given.shape[1]
    for between, score, order in zip(distances.numpy(), given.numpy(), rank.numpy(), strict=True):
        newest = int(score.argmax())
        nearest, weighted = between[newest].copy(), score.copy()
        excluded = np.zeros_like(score)  # minus infinity for selected units
        for step in range(p):
            order[newest], excluded[newest] = count - step, -np.inf
            np.minimum(nearest, between[newest], out=nearest)
            np.multiply(nearest, score, out=weighted)
            np.add(weighted, excluded, out=weighted)
            newest = int(weighted.argmax())
    return rank


def nearest_in_memory(distances: Tensor, dropped: Tensor, kept: Tensor) -> Tensor:
    """For each of (S, m) dropped units, which of (S, p) kept ones is nearest, the first of equally near ones.

    Returns (S, m) int64 places in ``kept``.
    """
    nearest = torch.empty_like(dropped)
    for between, rows, columns, places in zip(
        distances.numpy(), dropped.numpy(), kept.numpy(), nearest.numpy(), strict=True
    ):
        between[np.ix_(rows, columns)].argmin(1, out=places)
    return nearest


def pairwise_distances(directions: Tensor) -> Tensor:
    """(S, n, n) fp32 cosine distances of (S, n, D) unit vectors."""
    return _distances(directions @ directions.transpose(1, 2))


def directions_of(units: Tensor) -> Tensor:
    """(S, n, D) units as fp32 vectors of length 1, without gradients."""
    return torch.nn.functional.normalize(units.detach().float(), dim=-1)


def _distances(cosines: Tensor) -> Tensor:
    """1 - cosine, and 0 for copies; overwrites its argument."""
    return torch.threshold_(cosines.neg_().add_(1), TIE, 0)
