"""Average pooling of the token grid: the baseline of a uniformly coarser picture.

The projected features of a picture, tile or frame form a grid. The grid is divided into cells, and each cell
is replaced by the mean of its features. Each mean takes the index of the token nearest to the centre of its
cell, and positions are renumbered without gaps, so that the LLM receives a coarser grid.

As an interpretation: the number of cells is the product of the two rounded sides, not exactly the budget.
Features that the LLM receives from inside the encoder (Qwen3-VL's deepstack) are those at the centres, not
means.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import UnsupportedError
from ..models.located import LocatedModules
from ..ops.grids import coarse_places, coarse_shape
from ..ops.merging import MergedSegments
from ..ops.segments import Block
from .base import Method
from .checks import check_share
from .steps import Plan, ProjectorStep, Units


@dataclass(frozen=True)
class Pool(Method):
    """Average pooling of the grid of visual tokens, after the projector.

    A grid of H x W becomes one of max(1, round(H * sqrt(keep))) x max(1, round(W * sqrt(keep))). The number
    of tokens left is close to keep * H * W but seldom equal to it. Newlines and other tokens that a family
    adds to those of a picture are kept.

    Args:
        keep: approximate share of the grid's tokens left, in (0, 1]. None: 1/4, half of each side.

    Raises ValueError for values out of range. The forward pass raises UnsupportedError if the encoder's units
    are not in raster order (Qwen2.5-VL sorts them by window).
    """

    name: ClassVar[str] = "pool"

    keep: float | None = None

    def __post_init__(self) -> None:
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))

    def plan(self, modules: LocatedModules) -> Plan:
        return Plan(projector=PoolStep(1 / 4 if self.keep is None else self.keep), positions="compact")


@dataclass(frozen=True)
class PoolStep(ProjectorStep):
    """The pooling of every picture's features."""

    observes: ClassVar[bool] = False
    projected: ClassVar[bool] = True

    keep: float

    @property
    def keeps_all(self) -> bool:
        return self.keep >= 1

    @property
    def absorbs_all(self) -> bool:
        return True

    def count(self, n: int, of: int, grid: tuple[int, int] | None = None) -> int:
        down, across = coarse_shape(*(grid or (1, n)), self.keep)
        return down * across

    def reduce(self, units: Units) -> MergedSegments | None:
        # None if units were dropped earlier or are sorted by window.
        if units.shapes is None:
            raise UnsupportedError(
                "Pool needs all visual tokens in raster order; the units of this encoder are not "
                "(Qwen2.5-VL sorts them by window): use another method, such as Random or DivPrune"
            )
        return pool_segments(units.vectors, units.shapes, self.keep)


def pool_segments(units: Tensor, shapes: tuple[tuple[int, int], ...], keep: float) -> MergedSegments | None:
    """Average pooling of consecutive segments, each a grid in raster order.

    Args:
        units: (U, D), any floating dtype; means are computed in fp32.
        shapes: rows and columns of each segment.
        keep: approximate share of a grid; see :func:`illava.ops.grids.coarse_shape`.

    Returns None if no grid changes.
    """
    smaller = [coarse_shape(*shape, keep) for shape in shapes]
    if smaller == list(shapes):
        return None
    values, kept, start = [units[:0]], [torch.empty(0, dtype=torch.int64)], 0
    blocks = []
    for (rows, columns), (down, across) in zip(shapes, smaller, strict=True):
        grid = units[start : start + rows * columns]
        linear_map = partial(_pooled, shape=(rows, columns), to=(down, across))
        if (down, across) != (rows, columns):
            grid = linear_map(grid[None].float())[0].to(units.dtype)
        blocks.append(Block((start,), rows * columns, (sum(map(len, values)),), down * across, linear_map))
        values.append(grid)
        kept.append(coarse_places(rows, columns, down, across) + start)
        start += rows * columns
    counts = tuple(down * across for down, across in smaller)
    return MergedSegments(torch.cat(values), torch.cat(kept).to(units.device), counts, blocks=tuple(blocks))


def _pooled(x: Tensor, shape: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """(S, n, E) grids of a shape, in raster order, to (S, p, E) of a coarser shape."""
    channels = x.transpose(1, 2).reshape(*x.shape[::2], *shape)
    return adaptive_avg_pool2d(channels, to).flatten(2).transpose(1, 2)
