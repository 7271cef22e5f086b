"""Survivors of a merge step: one launch that reads the units and writes the survivors."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import block, on_device, warps
from .products import products

WIDTH = 512
"""Channels of one program, at most."""


@triton.jit(do_not_specialize=["n", "p"])
def _nearest_kept(products, kept, target, n, p, BLOCK: tl.constexpr):
    """For each unit of a block the index of the most similar survivor, the first of several."""
    segment = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    nearest, own = tl.zeros((BLOCK,), tl.int32), tl.full((BLOCK,), -1, tl.int32)
    for slot in range(p):
        product = tl.load(products + (segment * p + slot) * n + at, mask=at < n, other=0.0)
        unit = tl.load(kept + segment * p + slot)
        nearest = tl.where(product > best, slot, nearest)
        best = tl.maximum(best, product)
        own = tl.where(at == unit, slot, own)
    tl.store(target + segment * n + at, tl.where(own >= 0, own, nearest), mask=at < n)


@triton.jit(do_not_specialize=["n", "p"])
def _fold(
    units, sizes, kept, target, out, out_sizes, n, p, width,
    SIZED: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One survivor: the mean of itself and the units that belong to it, weighted by size."""
    segment, slot = tl.program_id(0) // p, tl.program_id(0) % p
    segment = segment.to(tl.int64)
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = channel < width
    own = tl.load(kept + segment * p + slot)
    row = tl.load(units + (segment * n + own) * width + channel, mask=inside, other=0.0)
    size = 1.0
    if SIZED:
        size = tl.load(sizes + segment * n + own)
    total, count = row.to(tl.float32) * size, 0
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        belongs = tl.load(target + segment * n + at, mask=at < n, other=-1) == slot
        belongs = belongs & (at != own)
        left = tl.sum(belongs.to(tl.int32), 0)
        count += left
        if left > TILE:
            # Many, as for a blank page: they are read side by side instead of one after another.
            for first in range(start, start + BLOCK, TILE):
                rows = first + tl.arange(0, TILE)
                mine = (tl.load(target + segment * n + rows, mask=rows < n, other=-1) == slot) & (rows != own)
                weights = mine.to(tl.float32)
                if SIZED:
                    weights = tl.load(sizes + segment * n + rows, mask=mine, other=0.0)
                others = tl.load(
                    units + (segment * n + rows)[:, None] * width + channel[None, :],
                    mask=mine[:, None] & inside[None, :], other=0.0,
                )  # fmt: skip
                total += tl.sum(others.to(tl.float32) * weights[:, None], 0)
                size += tl.sum(weights, 0)
            left = 0
        while left > 0:
            unit = tl.min(tl.where(belongs, at, n), 0)
            weight = 1.0
            if SIZED:
                weight = tl.load(sizes + segment * n + unit)
            other = tl.load(units + (segment * n + unit) * width + channel, mask=inside, other=0.0)
            total += other.to(tl.float32) * weight
            size += weight
            belongs = belongs & (at != unit)
            left -= 1
    # A survivor that absorbs no other unit is left unchanged, bit for bit.
    mean = tl.where(count > 0, (total / size).to(row.dtype), row)
    tl.store(out + (segment * p + slot) * width + channel, mean, mask=inside)
    if tl.program_id(1) == 0:
        tl.store(out_sizes + segment * p + slot, size)


def fold_into(units: Tensor, kept: Tensor, target: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Merge each unit into a survivor, as a mean weighted by size.

    Args:
        units: (S, n, D), any floating dtype.
        kept: (S, p) int64, the survivors.
        target: (S, n) int32, index in ``kept`` of the survivor that each unit belongs to.
        sizes: (S, n) fp32, how many units each unit already stands for; None counts each as one.

    Returns (S, p, D) survivors in the dtype of the units, and (S, p) fp32 sizes.
    """
    units, kept, target = units.contiguous(), kept.contiguous(), target.contiguous()
    (segments, n, width), p = units.shape, kept.shape[1]
    out = units.new_empty(segments, p, width)
    out_sizes = torch.empty(segments, p, dtype=torch.float32, device=units.device)
    wide = min(WIDTH, block(width))
    with on_device(units):
        _fold[(segments * p, triton.cdiv(width, wide))](
            units, out_sizes if sizes is None else sizes.contiguous(), kept, target, out, out_sizes,
            n, p, width, SIZED=sizes is not None, BLOCK=min(1024, block(n)), WIDTH=wide, TILE=16,
        )  # fmt: skip
    return out, out_sizes


def nearest_kept(units: Tensor, kept: Tensor, *, cosine: bool) -> Tensor:
    """(S, n) int32: for each unit the index in ``kept``, (S, p), of the most similar survivor, the first of
    several; for survivors their own."""
    (segments, n, _), p = units.shape, kept.shape[1]
    kept = kept.contiguous()
    found = products(units, kept, cosine=cosine)
    target = torch.empty(segments, n, dtype=torch.int32, device=units.device)
    with on_device(units):
        _nearest_kept[(segments, triton.cdiv(n, 128))](found, kept, target, n, p, BLOCK=128)
    return target


@triton.jit(do_not_specialize=["n", "p", "recyclers", "neighbours"])
def _recycle(
    units, order, kept, products, out, absorbed, weights, n, p, width, recyclers, neighbours, scale,
    BLOCK: tl.constexpr, RECYCLERS: tl.constexpr, NEIGHBOURS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One survivor: unchanged, or the mean of itself and the dropped units most similar to it."""
    segment, slot = tl.program_id(0) // p, tl.program_id(0) % p
    segment = segment.to(tl.int64)
    own = tl.load(kept + segment * p + slot)
    rank = tl.arange(0, RECYCLERS)
    candidates = tl.load(order + segment * n + p - recyclers + rank, mask=rank < recyclers, other=-1)
    recycles = tl.max((candidates == own).to(tl.int32), 0)
    recycler = tl.argmax((candidates == own).to(tl.int32), 0)
    base = units + segment * n * width
    result = out + (segment * p + slot) * width
    at_neighbour = tl.arange(0, NEIGHBOURS)
    share, unit = tl.zeros((NEIGHBOURS,), tl.float32), tl.zeros((NEIGHBOURS,), tl.int64)
    if recycles > 0:
        # In the order of scores: of equally similar units, the one with the higher score comes first.
        at = tl.arange(0, BLOCK)
        dropped = tl.load(order + segment * n + p + at, mask=at < n - p, other=0)
        similar = tl.load(
            products + (segment * recyclers + recycler) * n + dropped, mask=at < n - p, other=float("-inf")
        )
        similar = tl.where((similar != similar) & (at < n - p), float("inf"), similar)
        share = tl.full((NEIGHBOURS,), float("-inf"), tl.float32)
        free = at < n - p
        for number in range(neighbours):
            masked = tl.where(free, similar, float("-inf"))
            best = tl.max(masked, 0)
            # The first free one, even if all similarities are minus infinity.
            place = tl.min(tl.where(free & (masked == best), at, BLOCK), 0)
            found = tl.sum(tl.where(at == place, dropped, 0), 0)
            share = tl.where(at_neighbour == number, best / scale, share)
            unit = tl.where(at_neighbour == number, found, unit)
            free = free & (at != place)
        share = tl.exp(share - tl.max(share, 0))
        share = share / tl.sum(share, 0)
        place_out = (segment * recyclers + recycler) * neighbours + at_neighbour
        tl.store(weights + place_out, share, mask=at_neighbour < neighbours)
        tl.store(absorbed + place_out, unit, mask=at_neighbour < neighbours)
    for start in range(0, width, WIDTH):
        channel = start + tl.arange(0, WIDTH)
        inside = channel < width
        row = tl.load(base + own * width + channel, mask=inside, other=0.0)
        if recycles > 0:
            total = tl.zeros((WIDTH,), tl.float32)
            for number in range(neighbours):
                weight = tl.sum(tl.where(at_neighbour == number, share, 0.0), 0)
                other = tl.sum(tl.where(at_neighbour == number, unit, 0), 0)
                total += weight * tl.load(base + other * width + channel, mask=inside, other=0.0).to(
                    tl.float32
                )
            row = ((row.to(tl.float32) + total) / 2.0).to(row.dtype)
        tl.store(result + channel, row, mask=inside)


class Recycled(NamedTuple):
    """The survivors of a step that recycles."""

    units: Tensor
    """(S, p, D), dtype of the units."""
    absorbed: Tensor
    """(S, c, m) int64: the dropped units that each recycler absorbs."""
    weights: Tensor
    """(S, c, m) fp32: their weights, which sum to one."""


def recycle_into(
    units: Tensor, order: Tensor, kept: Tensor, recyclers: int, neighbours: int, *, cosine: bool
) -> Recycled:
    """Let the lowest-ranked survivors absorb dropped units.

    Args:
        units: (S, n, D), any floating dtype.
        order: (S, n) int64, the units from the highest score to the lowest.
        kept: (S, p) int64, the first p of them in ascending order.
        recyclers: number c of the lowest-ranked survivors that absorb others.
        neighbours: number of dropped units that each absorbs, at most.
    """
    units, order, kept = units.contiguous(), order.contiguous(), kept.contiguous()
    (segments, n, width), p = units.shape, kept.shape[1]
    m = min(neighbours, n - p)
    found = products(units, order[:, p - recyclers : p], cosine=cosine)
    out = units.new_empty(segments, p, width)
    absorbed = torch.empty(segments, recyclers, m, dtype=torch.int64, device=units.device)
    weights = torch.empty(segments, recyclers, m, dtype=torch.float32, device=units.device)
    with on_device(units):
        _recycle[(segments * p,)](
            units, order, kept, found, out, absorbed, weights, n, p, width, recyclers, m, width**0.5,
            BLOCK=block(n - p), RECYCLERS=block(recyclers), NEIGHBOURS=block(m, 1),
            WIDTH=min(WIDTH, block(width)), num_warps=warps(block(n - p)),
        )  # fmt: skip
    return Recycled(out, absorbed, weights)
