"""Coarser grids of units: how many rows and columns they have, and which cells of the finer grid they use."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UnsupportedError


def coarse_shape(rows: int, columns: int, keep: float) -> tuple[int, int]:
    """Rows and columns of a grid with about ``keep`` of the cells and the same aspect ratio; 0 stays 0."""
    down, across = (min(n, max(1, round(n * math.sqrt(keep)))) for n in (rows, columns))
    return down, across


def centres(n: int, cells: int) -> Tensor:
    """(cells,) int64: divide n positions into ``cells`` equal parts; return the position nearest each centre.

    Of two equally near positions the first is returned. The result is ascending and without duplicates,
    since no part is shorter than a position.
    """
    # The centre (2i + 1) n / 2 cells lies in the first position that ends at or after it.
    return ((2 * torch.arange(cells) + 1) * n - 1) // (2 * max(1, cells))


def coarse_places(rows: int, columns: int, down: int, across: int) -> Tensor:
    """(down * across,) int64: positions of the cells of a coarser grid in a raster of rows x columns."""
    return (centres(rows, down)[:, None] * columns + centres(columns, across)).flatten()


def frames_of(sizes: list[list[int]]) -> tuple[int, ...]:
    """Number of tokens of each frame, given frames, rows and columns of each picture."""
    return tuple(h * w for t, h, w in sizes for _ in range(t))


def square_units(shapes: list[tuple[int, int, int]], side: int) -> Tensor:
    """(tokens, rows, columns) of segments to (U, g) tokens of each side x side square, in raster order."""
    out, first = [], 0
    for tokens, rows, columns in shapes:
        if rows % side or columns % side or rows * columns != tokens:
            raise UnsupportedError(
                f"{rows} x {columns} patches do not divide into {side} x {side} squares; the encoder stage "
                "needs pictures that do; use encoder_layers=() to switch it off"
            )
        places = torch.arange(tokens).view(rows // side, side, columns // side, side)
        out.append(places.transpose(1, 2).reshape(-1, side * side) + first)
        first += tokens
    return torch.cat(out)
