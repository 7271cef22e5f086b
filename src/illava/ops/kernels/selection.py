"""Selection of diverse units, each next to the survivor most similar to it.

Short segments take one launch for their cosines and one for all rounds: one program a segment reads one row
of the cosines a round and keeps the distances in registers. In long segments, whose cosines would not fit in
memory, each round is a launch, without waiting for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import block, on_device, warps
from .products import SMALLEST, products

PAIR_BYTES = 256 * 2**20
"""Maximum size of the cosines of the segments of one launch."""
CHUNK, DEPTH = 128, 64


class Selected(NamedTuple):
    """The selection of p units in S segments of n units."""

    rank: Tensor
    """(S, n) fp32: n for the unit selected first, n - 1 for the second, and so on; 0 for the others."""
    kept: Tensor
    """(S, p) int64: the selected units, ascending."""
    target: Tensor
    """(S, n) int32: for each unit the index in ``kept`` of the most similar selected unit, by cosine; for
    selected units their own. Of equally similar ones, the first."""


@triton.jit
def _choose(nearest, scores, rank, at, n):
    """The unit with the largest product of distance and score among those not selected; the first of
    several."""
    value = nearest * scores
    # As torch.argmax does: NaN counts as the largest number.
    value = tl.where(value != value, float("inf"), value)
    value = tl.where((rank > 0) | (at >= n), float("-inf"), value)
    return tl.max(value, 0), tl.argmax(value, 0, tie_break_left=True)


@triton.jit
def _distance(cosine, tie):
    """1 - cosine, and 0 for copies."""
    distance = 1.0 - cosine
    return tl.where(distance <= tie, 0.0, distance)


@triton.jit
def _closer(cosine, pick, closest, index):
    """Replace the most similar selected unit where the new one is more similar, or as similar and earlier."""
    better = (index < 0) | (cosine > closest) | ((cosine == closest) & (pick < index))
    return tl.where(better, cosine, closest), tl.where(better, pick, index)


@triton.jit
def _write_kept(rank, index, kept, target, at, n, p, segment):
    """Write the selected units in ascending order, and of each unit the one it belongs to."""
    chosen, inside = rank > 0, at < n
    slot = tl.cumsum((chosen & inside).to(tl.int32), 0) - 1
    tl.store(kept + segment * p + slot, at.to(tl.int64), mask=chosen & inside)
    tl.store(target + segment * n + at, slot, mask=chosen & inside)
    # The others read what the selected ones have written.
    tl.debug_barrier()
    slot_of_index = tl.load(target + segment * n + index, mask=inside & (rank == 0), other=0)
    tl.debug_barrier()
    tl.store(target + segment * n + at, slot_of_index, mask=inside & (rank == 0))


@triton.jit(do_not_specialize=["n", "p"])
def _all_rounds(cosines, scores, ranks, kept, target, n, p, tie, BLOCK: tl.constexpr):
    """Select p units of one segment."""
    segment = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < n
    score = tl.load(scores + segment * n + at, mask=inside, other=0.0)
    rank = tl.zeros((BLOCK,), tl.float32)
    nearest = tl.full((BLOCK,), float("inf"), tl.float32)
    closest = tl.full((BLOCK,), float("-inf"), tl.float32)
    index = tl.full((BLOCK,), -1, tl.int32)
    _, pick = _choose(tl.full((BLOCK,), 1.0, tl.float32), score, rank, at, n)
    for step in range(p):
        rank = tl.where(at == pick, (n - step).to(tl.float32), rank)
        cosine = tl.load(cosines + (segment * n + pick) * n + at, mask=inside, other=0.0)
        nearest = tl.minimum(nearest, _distance(cosine, tie))
        closest, index = _closer(cosine, pick, closest, index)
        _, pick = _choose(nearest, score, rank, at, n)
    tl.store(ranks + segment * n + at, rank, mask=inside)
    _write_kept(rank, index, kept, target, at, n, p, segment)


@triton.jit(do_not_specialize=["n", "chunks", "step"])
def _one_round(
    units, scores, ranks, distances, closest, indices, values, picks, n, width, chunks, step, tie, smallest,
    BLOCK: tl.constexpr, CHUNKS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Round ``step`` of one chunk of a segment; round -1 only finds the highest score.

    ``values`` and ``picks`` hold the best unit of each chunk, by parity of the round: every program reads
    those of the round before and writes its own.
    """
    segment, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = chunk * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    of = segment * n + at
    score = tl.load(scores + of, mask=inside, other=0.0)
    rank = tl.load(ranks + of, mask=inside, other=0.0)
    nearest = tl.full((BLOCK,), 1.0, tl.float32)
    board = segment * 2 * chunks
    if step >= 0:
        all_chunks = tl.arange(0, CHUNKS)
        before = board + (step % 2) * chunks + all_chunks
        value = tl.load(values + before, mask=all_chunks < chunks, other=float("-inf"))
        best = tl.argmax(value, 0, tie_break_left=True)
        pick = tl.load(picks + board + (step % 2) * chunks + best)
        rank = tl.where(at == pick, (n - step).to(tl.float32), rank)
        tl.store(ranks + of, rank, mask=inside)
        dot = tl.zeros((BLOCK,), tl.float32)
        length, own = tl.zeros((BLOCK,), tl.float32), 0.0
        for start in range(0, width, DEPTH):
            channel = start + tl.arange(0, DEPTH)
            row = tl.load(units + (segment * n + pick) * width + channel, mask=channel < width, other=0.0)
            row = row.to(tl.float32)
            block = tl.load(
                units + of[:, None] * width + channel[None, :],
                mask=inside[:, None] & (channel < width)[None, :], other=0.0,
            ).to(tl.float32)  # fmt: skip
            dot += tl.sum(block * row[None, :], 1)
            length += tl.sum(block * block, 1)
            own += tl.sum(row * row, 0)
        cosine = dot / tl.maximum(tl.sqrt(own), smallest) / tl.maximum(tl.sqrt(length), smallest)
        nearest = tl.load(distances + of, mask=inside, other=0.0)
        nearest = tl.minimum(nearest, _distance(cosine, tie))
        tl.store(distances + of, nearest, mask=inside)
        near, index = _closer(
            cosine,
            pick,
            tl.load(closest + of, mask=inside, other=0.0),
            tl.load(indices + of, mask=inside, other=0),
        )
        tl.store(closest + of, near, mask=inside)
        tl.store(indices + of, index, mask=inside)
    value, best = _choose(nearest, score, rank, at, n)
    tl.store(values + board + ((step + 1) % 2) * chunks + chunk, value)
    tl.store(picks + board + ((step + 1) % 2) * chunks + chunk, chunk * BLOCK + best)


@triton.jit(do_not_specialize=["n", "p"])
def _collect(ranks, indices, kept, target, n, p, BLOCK: tl.constexpr):
    segment, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    rank = tl.load(ranks + segment * n + at, mask=at < n, other=0.0)
    index = tl.load(indices + segment * n + at, mask=at < n, other=0)
    _write_kept(rank, index, kept, target, at, n, p, segment)


def select_diverse(units: Tensor, scores: Tensor, p: int, *, tie: float, most_pairs: int) -> Selected:
    """The first p units by max-min diversity: see :func:`illava.ops.selection.diverse_ranking`.

    Args:
        units: (S, n, D), any floating dtype.
        scores: (S, n) fp32, not negative.
        p: number of units to select, 1 <= p <= n.
        tie: units whose cosine distance is at most this are copies.
        most_pairs: largest segment for which all cosines are held in memory.
    """
    units, scores = units.contiguous(), scores.float().contiguous()
    segments, n, _ = units.shape
    rank = torch.empty_like(scores)
    kept = torch.empty(segments, p, dtype=torch.int64, device=units.device)
    target = torch.empty(segments, n, dtype=torch.int32, device=units.device)
    if n > most_pairs:
        _select_by_rounds(units, scores, rank.zero_(), kept, target, tie)
        return Selected(rank, kept, target)
    step = max(1, PAIR_BYTES // (4 * n * n))
    for first in range(0, segments, step):
        some = slice(first, first + step)
        cosines = products(units[some], cosine=True)
        with on_device(units):
            _all_rounds[(len(cosines),)](
                cosines,
                scores[some],
                rank[some],
                kept[some],
                target[some],
                n,
                p,
                tie,
                BLOCK=block(n),
                num_warps=warps(block(n)),
            )
    return Selected(rank, kept, target)


def _select_by_rounds(
    units: Tensor, scores: Tensor, rank: Tensor, kept: Tensor, target: Tensor, tie: float
) -> None:
    segments, n, width = units.shape
    chunks = triton.cdiv(n, CHUNK)
    distances = torch.full_like(scores, float("inf"))
    closest, indices = torch.empty_like(scores), torch.full_like(target, -1)
    values = scores.new_empty(segments, 2, chunks)
    picks = torch.empty(segments, 2, chunks, dtype=torch.int32, device=units.device)
    with on_device(units):
        for step in range(-1, kept.shape[1]):
            _one_round[(segments, chunks)](
                units, scores, rank, distances, closest, indices, values, picks, n, width, chunks, step,
                tie, SMALLEST, BLOCK=CHUNK, CHUNKS=block(chunks), DEPTH=DEPTH,
            )  # fmt: skip
        _collect[(segments,)](
            rank, indices, kept, target, n, kept.shape[1], BLOCK=block(n), num_warps=warps(block(n))
        )
