"""Dot products and cosines of units."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import HALF, interpreted, on_device

TILE, DEPTH = 64, 64
"""Rows and columns of one tile, and channels that are multiplied at once."""
SMALLEST = 1e-12
"""Smallest norm that a unit is divided by, as in ``torch.nn.functional.normalize``."""


@triton.jit(do_not_specialize=["n", "rows", "index_stride"])
def _products(
    units, index, out, n, rows, width, index_stride, smallest,
    INDEXED: tl.constexpr, COSINE: tl.constexpr, UPCAST: tl.constexpr,
    TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile of the products of some units of a segment with all of them."""
    segment = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * TILE + tl.arange(0, TILE)
    column = tl.program_id(2) * TILE + tl.arange(0, TILE)
    of = row.to(tl.int64)
    if INDEXED:
        of = tl.load(index + segment * index_stride + row, mask=row < rows, other=0)
    base = units + segment * n * width
    product = tl.zeros((TILE, TILE), tl.float32)
    length_of_row = tl.zeros((TILE,), tl.float32)
    length_of_column = tl.zeros((TILE,), tl.float32)
    for start in range(0, width, DEPTH):
        channel = start + tl.arange(0, DEPTH)
        inside = (channel < width)[None, :]
        a = tl.load(
            base + of[:, None] * width + channel[None, :], mask=(row < rows)[:, None] & inside, other=0.0
        )
        b = tl.load(
            base + column[:, None].to(tl.int64) * width + channel[None, :],
            mask=(column < n)[:, None] & inside, other=0.0,
        )  # fmt: skip
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        product += tl.dot(a, tl.trans(b), input_precision="ieee")
        if COSINE:
            a, b = a.to(tl.float32), b.to(tl.float32)
            length_of_row += tl.sum(a * a, 1)
            length_of_column += tl.sum(b * b, 1)
    if COSINE:
        length_of_row = tl.maximum(tl.sqrt(length_of_row), smallest)
        length_of_column = tl.maximum(tl.sqrt(length_of_column), smallest)
        product = product / length_of_row[:, None] / length_of_column[None, :]
    tl.store(
        out + segment * rows * n + row[:, None].to(tl.int64) * n + column[None, :],
        product, mask=(row < rows)[:, None] & (column < n)[None, :],
    )  # fmt: skip


def products(units: Tensor, index: Tensor | None = None, *, cosine: bool) -> Tensor:
    """Dot products or cosines of some units of each segment with all units of the segment.

    Args:
        units: (S, n, D), any floating dtype.
        index: (S, c) int64, rows contiguous: the units to compare; None for all.
        cosine: whether to divide by the lengths.

    Returns (S, c, n) fp32; c is n without ``index``.
    """
    units = units.contiguous()
    segments, n, width = units.shape
    rows = n if index is None else index.shape[1]
    out = torch.empty(segments, rows, n, dtype=torch.float32, device=units.device)
    with on_device(units):
        _products[(segments, triton.cdiv(rows, TILE), triton.cdiv(n, TILE))](
            units, out if index is None else index, out, n, rows, width,
            0 if index is None else index.stride(0), SMALLEST,
            INDEXED=index is not None, COSINE=cosine, TILE=TILE, DEPTH=DEPTH,
            UPCAST=interpreted() or units.dtype not in HALF,
        )  # fmt: skip
    return out
