"""Propagation of NaN and infinity from the units of a segment to its survivors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..transfers import upload
from . import block, on_device

ROWS, DEPTH, BLOCK, WIDTH = 16, 128, 1024, 512


@triton.jit(do_not_specialize=["rows"])
def _flag(units, flags, rows, width, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """Zero for each row of finite numbers, NaN for the others."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, width, DEPTH):
        channel = start + tl.arange(0, DEPTH)
        values = tl.load(
            units + row[:, None].to(tl.int64) * width + channel[None, :],
            mask=(row < rows)[:, None] & (channel < width)[None, :], other=0.0,
        )  # fmt: skip
        total += tl.sum(values.to(tl.float32), 1)
    tl.store(flags + row, total - total, mask=row < rows)


@triton.jit(do_not_specialize=["n", "p", "segments"])
def _add(
    survivors, flags, entering, leaving, out, n, p, segments, width,
    EQUAL: tl.constexpr, SEGMENTS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Add the flags of all units of a segment to one of its survivors."""
    row = tl.program_id(0).to(tl.int64)
    if EQUAL:
        first = row // p * n
        last = first + n
    else:
        number = tl.arange(0, SEGMENTS)
        ends = tl.load(leaving + number, mask=number < segments, other=2**62)
        segment = tl.sum((ends <= row).to(tl.int32), 0)
        first = tl.load(entering + segment - 1, mask=segment > 0, other=0)
        last = tl.load(entering + segment)
    bad = 0.0
    for start in range(first, last, BLOCK):
        at = start + tl.arange(0, BLOCK)
        bad += tl.sum(tl.load(flags + at, mask=at < last, other=0.0), 0)
    for start in range(0, width, WIDTH):
        channel = start + tl.arange(0, WIDTH)
        inside = channel < width
        values = tl.load(survivors + row * width + channel, mask=inside, other=0.0)
        tl.store(out + row * width + channel, (values.to(tl.float32) + bad).to(values.dtype), mask=inside)


def propagate(survivors: Tensor, units: Tensor, lengths: Sequence[int], left: Sequence[int]) -> Tensor:
    """The survivors, all NaN in segments of which a unit is not finite.

    Args:
        survivors: (P, D), any floating dtype, the segments one after the other.
        units: (U, D), the units that entered the step.
        lengths: units of each segment, summing to U.
        left: survivors of each segment, summing to P.
    """
    units, survivors = units.contiguous(), survivors.contiguous()
    flags = torch.empty(len(units), dtype=torch.float32, device=units.device)
    out = torch.empty_like(survivors)
    equal = len(set(zip(lengths, left, strict=True))) == 1
    entering = leaving = flags
    if not equal:
        entering, leaving = upload([[*accumulate(lengths)], [*accumulate(left)]], units.device)
    width, of_survivors = units.shape[1], survivors.shape[1]
    with on_device(units):
        _flag[(triton.cdiv(len(units), ROWS),)](units, flags, len(units), width, ROWS=ROWS, DEPTH=DEPTH)
        _add[(len(survivors),)](
            survivors, flags, entering, leaving, out, lengths[0], left[0], len(lengths), of_survivors,
            EQUAL=equal, SEGMENTS=block(len(lengths), 64), BLOCK=BLOCK, WIDTH=WIDTH,
        )  # fmt: skip
    return out
