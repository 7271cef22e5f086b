"""Which survivor stands for a patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from illava.report.traces import StepTrace


@dataclass(frozen=True)
class Encoded:
    """The survivors of one picture, and the survivor that stands for each of its patches."""

    features: Tensor
    """(P, d) fp32."""
    owner: Tensor
    """(N,) int64: for each patch, in raster order, an index of ``features``."""
    sizes: Tensor | None = None
    """(P,) fp32: number of patches merged into each survivor, where the method knows it."""

    @classmethod
    def of_grid(cls, features: Tensor, coarse: int, grid: int) -> Encoded:
        """Features of a coarse grid; a patch belongs to the cell in which its centre lies."""
        cell = ((2 * torch.arange(grid) + 1) * coarse) // (2 * grid)
        return cls(features, (cell[:, None] * coarse + cell).flatten())

    @property
    def pooled(self) -> Tensor:
        """(d,) the mean of the survivors."""
        return self.features.mean(0)

    @property
    def weighted(self) -> Tensor:
        """(d,) the mean of the survivors, weighted by size where sizes are known."""
        if self.sizes is None:
            return self.pooled
        return (self.features * self.sizes[:, None]).sum(0) / self.sizes.sum()

    def cells(self, inside: Sequence[Sequence[int]]) -> Tensor:
        """(C, d): for each cell the mean, over its patches, of the survivors that stand for them."""
        return torch.stack([self.features[self.owner[list(patches)]].mean(0) for patches in inside])


def owners(features: Tensor, traces: Sequence[StepTrace | None], grid: int, counts: bool = False) -> Encoded:
    """The survivors of one picture, from the records of all steps.

    A patch belongs to the survivor in which it has the largest weight; of equal ones, and for a patch that
    was dropped without being merged, to the nearest in position, then to the first.

    Args:
        features: (P, d) the survivors. grid: patches a side. counts: whether to give sizes.
    """
    n = grid * grid
    share, kept = torch.eye(n), torch.arange(n)
    for trace in traces:
        assert trace is not None
        into, source, weight = trace.merge_weights
        step = torch.zeros(len(trace.kept), len(kept))
        step.index_put_((into, source), weight.float().abs(), accumulate=True)
        share, kept = step @ share, kept[trace.kept]
    if len(kept) != len(features):
        raise ValueError(f"the records end with {len(kept)} survivors, the encoder with {len(features)}")
    distance = torch.cdist(_places(kept, grid), _places(torch.arange(n), grid))
    candidate = share >= share.amax(0) * (1 - 1e-6)
    owner = distance.masked_fill(~candidate, float("inf")).argmin(0)
    sizes = (share > 0).sum(1).float() if counts else None
    return Encoded(features, owner, sizes)


def _places(index: Tensor, grid: int) -> Tensor:
    """(n,) raster indices to (n, 2) fp32 rows and columns."""
    return torch.stack([index // grid, index % grid], 1).float()
