"""What becomes of the dropped units of a merge step: recycled, averaged by rank, or folded into survivors.

Pure tensor functions on segments of equal size, called by :func:`illava.ops.merging.merge`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Similarity = Literal["dot", "cosine"]
SIMILARITIES: tuple[str, ...] = get_args(Similarity)

LinearMap = Callable[[Tensor], Tensor]
"""Maps (S, n, E) fp32, one row per unit, to (S, p, E), one row per survivor. Linear: which rows are combined,
and with what weight, is fixed beforehand."""


class Merged(NamedTuple):
    """The result of a merge step on S segments of equal size."""

    units: Tensor
    """(S, p, D), dtype of the input: the survivors in their original order."""
    kept: Tensor
    """(S, p) int64: index of each survivor in its segment, ascending."""
    sizes: Tensor | None = None
    """(S, p) fp32: how many units each survivor stands for; None where sizes are not tracked."""
    linear_map: LinearMap | None = None
    """The map from the input units to ``units``; None where survivors are unchanged."""


def recycling(
    units: Tensor, recyclers: Tensor, dropped: Tensor, neighbours: int, similarity: Similarity
) -> LinearMap:
    """The map by which each recycler absorbs its most similar dropped units.

    A recycler becomes the mean of itself and a softmax(<x_j, x_i> / sqrt(D))-weighted sum of its
    ``neighbours`` most similar dropped units.

    Args:
        units: (S, n, D) fp32.
        recyclers: (S, c) int64, the survivors that absorb others.
        dropped: (S, m) int64.

    Returns a map from (S, n, E) to (S, c, E).
    """
    x, y = gather_units(units, recyclers), gather_units(units, dropped)
    products = _comparable(x, similarity) @ _comparable(y, similarity).transpose(1, 2)
    # A stable sort rather than topk: among equal similarities the choice must not depend on the kernel.
    top, nearest = products.sort(dim=2, descending=True, stable=True)
    m = min(neighbours, y.shape[1])
    weights = (top[..., :m] / x.shape[-1] ** 0.5).softmax(-1).unsqueeze(-1)
    segment = torch.arange(len(y), device=y.device)[:, None, None]
    absorbed = dropped[segment, nearest[..., :m]]

    def linear_map(x: Tensor) -> Tensor:
        recycled: Tensor = (gather_units(x, recyclers) + (weights * x[segment, absorbed]).sum(2)) / 2
        return recycled

    return linear_map


def rank_weighted_mean(lowest: Tensor) -> Tensor:
    """The mean of (S, m, D) units, highest-scored first, as (S, 1, D) fp32: weight 1 for the first, m for the
    last."""
    ranks = torch.arange(1, lowest.shape[1] + 1, device=lowest.device, dtype=torch.float32)
    return ((ranks / ranks.sum())[None, :, None] * lowest.float()).sum(1, keepdim=True)


def fold(
    units: Tensor,
    order: Tensor,
    p: int,
    similarity: Similarity,
    sizes: Tensor | None,
    *,
    counted: bool = False,
    nearest: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, LinearMap]:
    """Keep the first p units of ``order`` and merge every other unit into its most similar survivor.

    Args:
        units: (S, n, D), any floating dtype.
        order: (S, n) int64, the units from the highest score to the lowest.
        sizes: (S, n) fp32, how many units each unit already stands for; None counts each as one.
        counted: whether to return sizes even if none are given.
        nearest: from (S, n - p) dropped and (S, p) kept units to (S, n - p) places in the latter, instead of
            ``similarity``, where distances are known already.

    Returns the fields of :class:`Merged`. Each survivor is the size-weighted mean of
    itself and the units merged into it.
    """
    kept, dropped = order[:, :p].sort(dim=1).values, order[:, p:]
    x = units.float()
    weights = torch.ones_like(x[..., 0]) if sizes is None else sizes
    if nearest is None:
        # Similarity only selects: no gradient flows through it.
        comparable = _comparable(x.detach(), similarity)
        products = gather_units(comparable, dropped) @ gather_units(comparable, kept).transpose(1, 2)
        # The first of equally similar survivors, which argmax returns.
        target = products.argmax(2)
    else:
        target = nearest(dropped, kept)
    size = weights.gather(1, kept).scatter_add(1, target, weights.gather(1, dropped))

    def linear_map(x: Tensor) -> Tensor:
        total = gather_units(x, kept) * weights.gather(1, kept)[..., None]
        joining = gather_units(x, dropped) * weights.gather(1, dropped)[..., None]
        mean: Tensor = total.scatter_add(1, row_index(target, x), joining) / size[..., None]
        return mean

    # A survivor that absorbs no other unit is left unchanged, bit for bit.
    alone = (size == weights.gather(1, kept))[..., None]
    values = torch.where(alone, gather_units(units, kept), linear_map(x).to(units.dtype))
    return values, kept, size if counted or sizes is not None else None, linear_map


def row_index(index: Tensor, units: Tensor) -> Tensor:
    """(S, k) int64 unit indices expanded to (S, k, D), for ``gather`` and ``scatter`` along dimension 1."""
    return index.unsqueeze(-1).expand(-1, -1, units.shape[-1])


def gather_units(units: Tensor, index: Tensor) -> Tensor:
    """(S, n, D) units at (S, k) int64 indices, as (S, k, D)."""
    gathered: Tensor = units.gather(1, row_index(index, units))
    return gathered


def _comparable(units: Tensor, similarity: Similarity) -> Tensor:
    """(S, n, D) fp32 vectors whose dot products are the similarity."""
    return torch.nn.functional.normalize(units, dim=-1) if similarity == "cosine" else units
