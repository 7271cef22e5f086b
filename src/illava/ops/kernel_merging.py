"""Recycling and folding with the kernels of :mod:`illava.ops.kernels`.

The functions return the fields of :class:`illava.ops.merging.Merged`. Their linear maps use the choice and
the weights that the kernels have computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .reductions import LinearMap, Similarity, gather_units, row_index

Fields = tuple[Tensor, Tensor, Tensor | None, LinearMap]


def fold(
    units: Tensor, kept: Tensor, target: Tensor, sizes: Tensor | None, *, counted: bool = False
) -> Fields:
    """Merge each of (S, n, D) units into the survivor that it belongs to.

    Args:
        kept: (S, p) int64, the survivors, ascending.
        target: (S, n) int32, index in ``kept`` of the survivor of each unit.
        sizes, counted: as in :func:`illava.ops.reductions.fold`.
    """
    from .kernels import merging

    values, size = merging.fold_into(units, kept, target, sizes)

    def linear_map(x: Tensor) -> Tensor:
        weights = torch.ones(x.shape[:2], device=x.device) if sizes is None else sizes
        into = row_index(target.long(), x)
        total = x.new_zeros(len(x), kept.shape[1], x.shape[-1])
        mean: Tensor = total.scatter_add(1, into, x * weights[..., None]) / size[..., None]
        return mean

    return values, kept, size if counted or sizes is not None else None, linear_map


def fold_most_similar(
    units: Tensor, kept: Tensor, similarity: Similarity, sizes: Tensor | None, *, counted: bool = False
) -> Fields:
    """Merge each unit into the most similar survivor, the first of several."""
    from .kernels import merging

    target = merging.nearest_kept(units, kept, cosine=similarity == "cosine")
    return fold(units, kept, target, sizes, counted=counted)


def recycle(
    units: Tensor,
    order: Tensor,
    kept: Tensor,
    recyclers: int,
    neighbours: int,
    similarity: Similarity,
    sizes: Tensor | None,
) -> Fields:
    """Let the ``recyclers`` lowest-ranked survivors absorb dropped units: see
    :func:`illava.ops.reductions.recycling`."""
    from .kernels import merging

    made = merging.recycle_into(units, order, kept, recyclers, neighbours, cosine=similarity == "cosine")
    changed = order[:, kept.shape[1] - recyclers : kept.shape[1]]

    def linear_map(x: Tensor) -> Tensor:
        segment = torch.arange(len(x), device=x.device)[:, None, None]
        absorbed = (made.weights[..., None] * x[segment, made.absorbed]).sum(2)
        recycled = (gather_units(x, changed) + absorbed) / 2
        return gather_units(x.scatter(1, row_index(changed, x), recycled), kept)

    return made.units, kept, None if sizes is None else sizes.gather(1, kept), linear_map
