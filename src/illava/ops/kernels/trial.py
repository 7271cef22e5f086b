"""A trial of all kernels on one device: their results against those of PyTorch operations."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..marks import propagated
from ..merging import merge, merge_diverse, recycler_count
from ..precision import full_precision
from ..scoring import column_scores, last_row_scores
from ..selection import TIE
from . import HALF, attention, guarding, interpreted, merging, selection

UNITS, KEPT, CHANNELS, WIDTH = 90, 30, 70, 40
"""None a multiple of a tile, so that every mask counts."""
TOLERANCE = 1e-3
"""Of fp32 results of numbers of order one. Sums of other results are rounded to the model's dtype."""


@full_precision
@torch.no_grad()
def differences(device: torch.device, dtype: torch.dtype) -> list[str]:
    """What differs, one line for each kernel; empty if all agree. Waits for the device."""
    compared = [*_of_steps(device, dtype)]
    if dtype in HALF or interpreted():
        # Those of fp32 attention are not used on a card, and take long to compile.
        compared += _of_attention(device, dtype)
    return [f"{name} differs from PyTorch operations" for name, same in compared if not same]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    # Not on the default device, nor of the default dtype, which the user may have set.
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


def _of_attention(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, bool]]:
    generator = torch.Generator().manual_seed(0)
    query, key = (_normal(generator, 2, heads, UNITS, WIDTH).to(device, dtype) for heads in (4, 2))
    scale = WIDTH**-0.5
    wanted = column_scores(query, key, scale, times=UNITS)
    found = attention.column_sums(query, key, scale, UNITS, 1 / 4)
    yield "the sum of attention weights", torch.allclose(found, wanted, atol=TOLERANCE)
    sizes = torch.arange(2 * UNITS, device=device).view(2, UNITS).float().log1p()
    wanted = column_scores(query, key, scale, times=UNITS, bias=sizes)
    found = attention.column_sums(query, key, scale, UNITS, 1 / 4, sizes)
    yield "the sum of attention weights, with sizes", torch.allclose(found, wanted, atol=TOLERANCE)
    last = torch.tensor([UNITS - 3, UNITS - 1], device=device)
    padding = torch.arange(UNITS, device=device).expand(2, -1) > 4
    for mask in (padding, padding[:, None, None].expand(2, 1, UNITS, UNITS)):
        wanted = last_row_scores(query, key, scale, last, mask)
        found = attention.row_weights(query, key, scale, last, mask, None).mean(1)
        yield "the attention of one query", torch.allclose(found, wanted, atol=TOLERANCE)
    wanted = last_row_scores(query, key, scale, last, bias=sizes)
    found = attention.row_weights(query, key, scale, last, None, None, sizes).mean(1)
    yield "the attention of one query, with sizes", torch.allclose(found, wanted, atol=TOLERANCE)


def _of_steps(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, bool]]:
    generator = torch.Generator().manual_seed(1)
    rough = TOLERANCE if dtype in (torch.float32, torch.float64) else 4 * torch.finfo(dtype).eps
    units = _normal(generator, 2, UNITS, CHANNELS).to(device, dtype)
    scores = torch.rand(2, UNITS, generator=generator, device="cpu", dtype=torch.float32).to(device)
    sizes = torch.ones_like(scores)
    folded = merge_diverse(units, scores, KEPT, reduce="fold", similarity="cosine", sizes=sizes)
    for most in (UNITS, 1):
        chosen = selection.select_diverse(units, scores, KEPT, tie=TIE, most_pairs=most)
        yield "the selection", torch.equal(chosen.kept, folded.kept)
        values, _ = merging.fold_into(units, chosen.kept, chosen.target, sizes)
        yield "folding", torch.allclose(values.float(), folded.units.float(), atol=rough, rtol=rough)
    order = scores.argsort(dim=1, descending=True, stable=True)
    kept = order[:, :KEPT].sort(dim=1).values
    target = merging.nearest_kept(units, kept, cosine=False)
    values, _ = merging.fold_into(units, kept, target, None)
    wanted = merge(units, scores, KEPT, reduce="fold").units
    yield "folding by dot products", torch.allclose(values.float(), wanted.float(), atol=rough, rtol=rough)
    recycled = merging.recycle_into(units, order, kept, recycler_count(KEPT, 1 / 4), 5, cosine=False)
    wanted = merge(units, scores, KEPT, recycle=1 / 4).units
    yield "recycling", torch.allclose(recycled.units.float(), wanted.float(), atol=rough, rtol=rough)
    flat = units.flatten(0, 1).index_fill(0, torch.tensor([3], device=device), float("inf"))
    for lengths, left in (((UNITS, UNITS), (KEPT, KEPT)), ((50, 2 * UNITS - 50), (20, 2 * KEPT - 20))):
        survivors = values.flatten(0, 1)
        wanted = propagated(survivors, flat, lengths, left)
        found = guarding.propagate(survivors, flat, lengths, left)
        yield "propagation of NaN", torch.equal(found.isnan(), wanted.isnan())
