"""Selection of some survivors by clusters, as the units least similar to their cluster at two depths.

After "SPIDER" (ICLR 2026 submission 14993): most survivors are selected by a score. The others come from
clusters of the units that are left, in proportion to the size of each cluster. In each cluster they are the
units that are least similar to the others both in the deep features and in those of a middle block, where
details are that deeper blocks abstract away.

There this happens after the encoder, with its last and its middle block. Here a step lies inside the
encoder: the deep features are those at the step, the middle ones those at half its depth, and what becomes
of the other units is up to the step. Decided here too: Only units that the score has not selected are
clustered. K-means is spherical, so units are compared by cosine similarity. The first centre is the unit
most similar to the mean of all, each further one the unit least similar to the centres before it, and
centres move ``ROUNDS`` times. Units of a cluster rank by the sum over both depths of their mean similarity
to all units of the cluster. Sizes of units have no effect.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .coverage import RESOLUTION
from .graphs import captured
from .precision import full_precision
from .reductions import gather_units
from .selection import directions_of

CLUSTERS = 4
"""Clusters of a segment; fewer if it has fewer units."""
ROUNDS = 10
"""How often the centres move."""


@full_precision
def two_depths_ranking(units: Tensor, earlier: Tensor, ranking: Tensor, first: int, p: int) -> Tensor:
    """Rank the ``first`` units of a ranking first, then p - first units that clusters select.

    Similarities are compared as whole multiples of 1 / ``RESOLUTION``, so that rounding does not decide
    between copies; of equal units or centres the earlier one is taken. The parts of clusters are rounded
    down, and the places that remain go to the clusters with the largest remainders. A cluster that lost all
    of its units keeps its centre.

    Args:
        units: (S, n, D) deep features, any floating dtype.
        earlier: (S, n, E) features of the same units at an earlier block.
        ranking: (S, n) fp32; of equal values the earlier unit ranks higher.
        first: number of units that ``ranking`` selects, 1 <= first < p.
        p: number of units to select, p < n.

    Returns (S, n) fp32, different for all units: highest for the ``first`` ones, then for those selected by
    clusters, then for the others; among each of these in the order of ``ranking``.
    """
    return _captured_ranking(units, earlier, ranking, first, p)


def ranking_by_operations(units: Tensor, earlier: Tensor, ranking: Tensor, first: int, p: int) -> Tensor:
    """:func:`two_depths_ranking` with PyTorch operations."""
    count = units.shape[1]
    order = ranking.float().argsort(dim=1, descending=True, stable=True)
    rest = order[:, first:].sort(dim=1).values
    deep, middle = (directions_of(gather_units(part, rest)) for part in (units.detach(), earlier.detach()))
    members = _members(deep, min(CLUSTERS, rest.shape[1]))
    similarity = _mean_similarity(deep, members) + _mean_similarity(middle, members)
    chosen = torch.zeros_like(order, dtype=torch.bool)
    chosen = chosen.scatter(1, rest, _least_similar(similarity, members, p - first))
    place = order.argsort(dim=1)
    return (count * (2 * (place < first).long() + chosen.long()) - place).float()


_captured_ranking = captured(ranking_by_operations)


def _similarities(directions: Tensor, others: Tensor) -> Tensor:
    """(S, m, D) and (S, k, D) to (S, m, k) int64 multiples of 1 / RESOLUTION."""
    return (directions @ others.transpose(1, 2)).mul_(RESOLUTION).round_().long()


def _members(directions: Tensor, count: int) -> Tensor:
    """(S, m, count) bool: which cluster each of (S, m, D) units belongs to, by k-means."""
    mean = directions_of(directions.mean(1, keepdim=True))
    newest = _similarities(directions, mean).argmax(1)
    centres = gather_units(directions, newest)
    nearest = _similarities(directions, centres).squeeze(2)
    for _ in range(count - 1):
        newest = gather_units(directions, nearest.argmin(1, keepdim=True))
        centres = torch.cat([centres, newest], 1)
        nearest = torch.maximum(nearest, _similarities(directions, newest).squeeze(2))
    numbers = torch.arange(count, device=directions.device)
    members = _nearest(directions, centres, numbers)
    for _ in range(ROUNDS):
        moved = directions_of(members.transpose(1, 2).float() @ directions)
        centres = torch.where(members.any(1)[..., None], moved, centres)
        members = _nearest(directions, centres, numbers)
    return members


def _nearest(directions: Tensor, centres: Tensor, numbers: Tensor) -> Tensor:
    return _similarities(directions, centres).argmax(2, keepdim=True) == numbers


def _mean_similarity(directions: Tensor, members: Tensor) -> Tensor:
    """(S, m) int64: of each unit to the units of its cluster, itself included."""
    # The mean of the similarities is the similarity to the mean.
    sums = members.transpose(1, 2).float() @ directions
    means = sums / members.sum(1).clamp(min=1)[..., None]
    return (_similarities(directions, means) * members).sum(2)


def _least_similar(similarity: Tensor, members: Tensor, count: int) -> Tensor:
    """(S, m) bool: the ``count`` units with the lowest similarity, of each cluster its part."""
    sizes = members.sum(1)
    parts, remainders = count * sizes // members.shape[1], count * sizes % members.shape[1]
    place = remainders.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    parts = parts + (place < count - parts.sum(1, keepdim=True))
    order = similarity.argsort(dim=1, stable=True)
    ordered = gather_units(members, order)
    # Numbers of the units of each cluster, from 1 for the least similar.
    chosen = (ordered & (ordered.cumsum(1) <= parts[:, None])).any(2)
    return torch.zeros_like(chosen).scatter(1, order, chosen)
