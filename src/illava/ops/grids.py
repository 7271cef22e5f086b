"""Coarser grids of units: how many rows and columns they have, and which cells of the finer grid they use."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
