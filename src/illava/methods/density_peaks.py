"""Density peaks clustering: centres are dense points that are far from any denser point."""

from __future__ import annotations

import torch
from torch import Tensor


def cluster_shares(points: Tensor, count: int, neighbours: int) -> Tensor:
    """The weight of each point in the mean of each cluster, for each of S sets of points.

    Distances are L2 / sqrt(D). The density of a point is exp(-mean of the squared distances to its
    ``neighbours`` nearest other points). The score of a point is its density times its distance to the
    nearest denser point; the densest point has an infinite distance. The ``count`` points with the highest
    scores are centres, and every other point is assigned to its nearest centre. Ties in density, score and
    distance to a centre are broken by the lower index.

    Args:
        points: (S, r, D) fp32.
        count: number of clusters, 1 <= count <= r.
        neighbours: number of nearest neighbours, at most r - 1 of which exist.

    Returns (S, count, r) fp32, rows in the order of the centres, without gradient.
    """
    with torch.no_grad():
        label = _labels(points, count, neighbours)
        share = torch.nn.functional.one_hot(label, count).to(points.dtype)
        return (share / share.sum(1, keepdim=True)).transpose(1, 2)


def _labels(points: Tensor, count: int, neighbours: int) -> Tensor:
    """(S, r) int64: the cluster of each point."""
    r, width = points.shape[1:]
    # From differences: with matrix products, copies would not have distance 0 and outliers would dominate.
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / width**0.5
    diagonal = torch.eye(r, dtype=torch.bool, device=points.device)
    k = min(neighbours, r - 1)
    nearest = distance.masked_fill(diagonal, float("inf")).topk(k, largest=False).values
    # Logarithms, which have the same order: the densities of points far apart underflow to zero in fp32.
    density = -nearest.square().sum(2) / max(1, k)
    rank = density.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    denser = rank[:, None, :] < rank[:, :, None]
    # Infinite for the densest point, which is therefore always a centre.
    separation = distance.masked_fill(~denser, float("inf")).amin(2)
    ranking = (density + separation.log()).argsort(dim=1, descending=True, stable=True)
    centres = ranking[:, :count].sort(1).values
    label = torch.take_along_dim(distance, centres[:, None], 2).argmin(2)
    # Each centre belongs to its own cluster, even if another centre is a copy of it.
    return label.scatter(1, centres, torch.arange(count, device=points.device).expand(len(points), -1))
