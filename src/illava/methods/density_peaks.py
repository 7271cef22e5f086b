"""Clustering by density peaks: centres are dense points far from any denser one."""

from __future__ import annotations

import torch
from torch import Tensor


def cluster_shares(points: Tensor, count: int, neighbours: int) -> Tensor:
    """What each point has in the mean of each cluster, for each of S sets of points.

    Distances are L2 / sqrt(D). The density of a point is exp(-mean of the squared distances to its nearest
    ``neighbours`` others); its distinction is density times the distance to the nearest denser point, the
    densest point's the largest distance of all. The ``count`` most distinct points are centres, every other
    point goes to the centre nearest to it. Among equals the earlier point comes first: as denser, as a
    centre, as the nearest centre.

    Args:
        points: (S, r, D) fp32.
        count: clusters, 1 <= count <= r.
        neighbours: at most; r - 1 where there are no more others.

    Returns (S, count, r) fp32, rows in the order of the centres, without gradient.
    """
    with torch.no_grad():
        label = _labels(points, count, neighbours)
        share = torch.nn.functional.one_hot(label, count).to(points.dtype)
        return (share / share.sum(1, keepdim=True)).transpose(1, 2)


def _labels(points: Tensor, count: int, neighbours: int) -> Tensor:
    """(S, r) int64: the cluster of each point."""
    r, width = points.shape[1:]
    # By differences: by products, copies would lie apart and outliers drown the others.
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / width**0.5
    itself = torch.eye(r, dtype=torch.bool, device=points.device)
    k = min(neighbours, r - 1)
    nearest = distance.masked_fill(itself, float("inf")).sort(2).values[..., :k]
    # As logarithms, in the same order: of points far apart all densities are zero in fp32.
    density = -nearest.square().sum(2) / max(1, k)
    rank = density.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    denser = rank[:, None, :] < rank[:, :, None]
    # Infinitely far where none is denser: whatever its distance, the densest point is the most distinct.
    apart = distance.masked_fill(~denser, float("inf")).amin(2)
    distinct = (density + apart.log()).argsort(dim=1, descending=True, stable=True)
    centres = distinct[:, :count].sort(1).values
    label = torch.take_along_dim(distance, centres[:, None], 2).argmin(2)
    # A centre that is the copy of another is as near to that one.
    return label.scatter(1, centres, torch.arange(count, device=points.device).expand(len(points), -1))
