"""Positions (M-RoPE) of a prompt whose pictures lost some of their tokens.

Every token keeps the position that it has in the full prompt. For text these follow from the sizes of the
pictures, so they are known before anything is encoded. For visual tokens they depend on which ones survive.
Until their features arrive, all tokens of a picture have the position at which it begins. Then the model adds
where in the picture each one lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """Consecutive visual tokens of a prompt: a picture, a video, or a frame between timestamps."""

    start: int
    """Index of its first token."""
    tokens: int
    extent: int
    """Positions that the whole picture takes: one more than the largest of its times, rows and columns."""


def beginnings(length: int, runs: Iterable[Run]) -> tuple[Tensor, int]:
    """Positions of a prompt of ``length`` tokens, those of visual tokens where their run begins.

    Returns (3, length) int64, and where decoding continues, relative to ``length``.
    """
    positions = torch.empty(length, dtype=torch.int64)
    done = position = 0
    for run in sorted(runs, key=lambda run: run.start):
        text = run.start - done
        positions[done : run.start] = torch.arange(position, position + text)
        position += text
        positions[run.start : run.start + run.tokens] = position
        position += run.extent
        done = run.start + run.tokens
    positions[done:] = torch.arange(position, position + length - done)
    return positions.repeat(3, 1), position - done


def add_places(positions: Tensor, visual: Tensor, places: Tensor) -> None:
    """Move visual tokens from where their run begins to their own positions, in place and without a sync.

    Args:
        positions: (3, n) int64 of the tokens of a step, or more if it is padded.
        visual: (n,) bool, which tokens have features.
        places: (P, 3) int64 of these, in order, as :func:`places_of` returns them.
    """
    visual = visual.to(positions.device, non_blocking=True)
    moved = torch.zeros(3, len(visual), dtype=positions.dtype, device=positions.device)
    places = places.T.to(positions.device, positions.dtype).contiguous()
    positions[:, : len(visual)] += moved.masked_scatter(visual.expand_as(moved), places)


def places_of(raster: Tensor, grid: Sequence[int], side: int, per_frame: float | None) -> Tensor:
    """(P, 3) int64: time, row and column of survivors, relative to where their run begins.

    Args:
        raster: (P,) int64, ascending: raster index of each survivor among the units.
        grid: frames, rows and columns of patches.
        side: patches along each side of a unit.
        per_frame: positions from a frame to the next; None where every frame is a run of its own.
    """
    rows, columns = grid[1] // side, grid[2] // side
    frame, place = raster // (rows * columns), raster % (rows * columns)
    # As vLLM and transformers do, in double precision and rounded down.
    time = (
        torch.zeros_like(frame)
        if per_frame is None
        else (frame.to(torch.float64) * per_frame).to(torch.int64)
    )
    return torch.stack([time, place // columns, place % columns], dim=1)


def extent(grid: Sequence[int], side: int, per_frame: float | None) -> int:
    """:attr:`Run.extent` of a picture or video, or of one of its frames where ``per_frame`` is None."""
    last = 0 if per_frame is None else int((grid[0] - 1) * per_frame)
    return max(last, grid[1] // side - 1, grid[2] // side - 1) + 1
