"""Average pooling of the token grid: the control that asks whether a coarser picture would do as well.

What the projector made of a picture (of a tile, of a frame) is a grid of features. It is divided into
cells, and each becomes the mean of its features. In the LLM the means stand at the places nearest the centres
of their cells, renumbered without gaps, so that a model sees what it would see of a coarser grid.

As an interpretation: the number of cells is what the two rounded sides give, not the budget exactly. Features
that a model takes from inside its encoder (Qwen3-VL's deepstack) are those at the centres, not means.
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
from ..ops.merging import Block, MergedSegments
from .base import Method
from .checks import check_share
from .steps import Plan, ProjectorStep, Units


@dataclass(frozen=True)
class Pool(Method):
    """Average pooling of the grid of visual tokens, after the projector.

    A grid of H x W becomes one of max(1, round(H * sqrt(keep))) x max(1, round(W * sqrt(keep))): that many
    tokens stay, which is near keep * H * W but seldom exactly that. Line ends and the like that a family adds
    to a picture's tokens stay beside them.

    Args:
        keep: share of the grid's tokens to aim at, in (0, 1]. None: 1/4, half of each side.

    Raises ValueError for values out of range; on a picture UnsupportedError where the encoder's units are not
    in raster order (Qwen2.5-VL sorts them by window).
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

    def count(self, n: int, of: int, grid: tuple[int, int] | None = None) -> int:
        down, across = coarse_shape(*(grid or (1, n)), self.keep)
        return down * across

    def reduce(self, units: Units) -> MergedSegments | None:
        # None where units went before or are sorted by window.
        if units.shapes is None:
            raise UnsupportedError(
                "Pool needs visual tokens in raster order, all of them; this encoder has none there "
                "(Qwen2.5-VL sorts by window): use another method, such as Random or DivPrune"
            )
        return pool_segments(units.vectors, units.shapes, self.keep)


def pool_segments(units: Tensor, shapes: tuple[tuple[int, int], ...], keep: float) -> MergedSegments | None:
    """Average pooling of consecutive segments, each a grid in raster order.

    Args:
        units: (U, D), any floating dtype; means are taken in fp32.
        shapes: rows and columns of each segment.
        keep: share of a grid to aim at; see :func:`illava.ops.grids.coarse_shape`.

    Returns None when every grid stays as it is.
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
        here = torch.arange(start, start + rows * columns, device=units.device)
        places = torch.arange(down * across, device=units.device) + sum(map(len, values))
        blocks.append(Block(here[None], places[None], linear_map))
        values.append(grid)
        kept.append(coarse_places(rows, columns, down, across) + start)
        start += rows * columns
    counts = tuple(down * across for down, across in smaller)
    return MergedSegments(torch.cat(values), torch.cat(kept).to(units.device), counts, blocks=tuple(blocks))


def _pooled(x: Tensor, shape: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """(S, n, E) rasters of a shape to (S, p, E) of a coarser one."""
    channels = x.transpose(1, 2).reshape(*x.shape[::2], *shape)
    return adaptive_avg_pool2d(channels, to).flatten(2).transpose(1, 2)
