"""Grids of units made coarser: how many rows and columns are left, and where in the finer grid they stand."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def coarse_shape(rows: int, columns: int, keep: float) -> tuple[int, int]:
    """Rows and columns of a grid that has about ``keep`` of the cells and the same proportions; 0 of 0."""
    down, across = (min(n, max(1, round(n * math.sqrt(keep)))) for n in (rows, columns))
    return down, across


def centres(n: int, cells: int) -> Tensor:
    """(cells,) int64: of n places in a row the one nearest the centre of each of ``cells`` equal parts.

    Between two equally near places the first. Ascending and distinct: no part is shorter than a place.
    """
    # The centre (2i + 1) n / 2 cells lies in the place that ends at or behind it.
    return ((2 * torch.arange(cells) + 1) * n - 1) // (2 * max(1, cells))


def coarse_places(rows: int, columns: int, down: int, across: int) -> Tensor:
    """(down * across,) int64: where in a raster of rows x columns the cells of a coarser one stand."""
    return (centres(rows, down)[:, None] * columns + centres(columns, across)).flatten()
