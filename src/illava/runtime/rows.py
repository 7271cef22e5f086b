"""Modules at the projector that need rows in another order, or without marks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.marks import marked, unmarked
from ..ops.transfers import upload
from .contract.entries import PATCH_MASKS
from .encoder.run import EncoderRun
from .hooks import Hooks
from .passes import Passes


class Resampler:
    """For a module in which queries, fixed in number, read the patches by cross-attention.

    They read the survivors only, and all of their outputs reach the LLM.
    """

    def __init__(self, module: nn.Module, projector: nn.Module, passes: Passes, hooks: Hooks) -> None:
        self.passes = passes
        hooks.pre(module, self._shorten_mask)
        hooks.post(projector, self._keep_all)

    def _shorten_mask(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.passes.encoder_run
        if run is None or run.kept is None:
            return None
        left = run.prefix + sum(run.lengths) // len(run.lengths)
        # The encoder stage takes whole pictures only, so that all columns of a mask are equal.
        masks = {name: kwargs[name] for name in PATCH_MASKS if isinstance(kwargs.get(name), Tensor)}
        return args, {**kwargs, **{name: mask[..., :left] for name, mask in masks.items()}}

    def _keep_all(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], features: Tensor
    ) -> Any:
        run = self.passes.encoder_run
        if run is None:
            return None
        run.marked = 0
        # NaN that the model itself computed is not a mark.
        return unmarked(features)


class FoldedUnits:
    """For a projector that gets tokens in raster order, and joins those of each unit by the pictures' grids.

    After a merge the survivors stand in the order of units, like pictures of one unit each, whose grids this
    hands over.
    """

    def __init__(self, projector: nn.Module, passes: Passes, hooks: Hooks) -> None:
        self.passes = passes
        hooks.pre(projector, self._fold)

    def _fold(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.passes.encoder_run
        if run is None or run.kept is None:
            return None
        x, grid, *rest = args
        side = math.isqrt(run.group)
        return (x, grid.new_tensor([[sum(run.lengths), side, side]]), *rest), kwargs


class RowWise:
    """For a module after the projector that maps features row by row.

    Its weights would get gradients of NaN from marked rows, since 0 * NaN is NaN. So these are zeros there.
    """

    def __init__(self, module: nn.Module, passes: Passes, hooks: Hooks) -> None:
        self.passes = passes
        self.dropped: Tensor | None = None
        """(...) bool: the marked rows of the features in the module."""
        hooks.pre(module, self._zero)
        hooks.post(module, self._mark)

    def _zero(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.passes.encoder_run
        if run is None:
            return None
        (features,) = args
        self.dropped = marked(features)
        if run.kept is None:
            return None
        return (features.masked_fill(self.dropped[..., None], 0),), kwargs

    def _mark(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], features: Tensor
    ) -> Any:
        dropped, self.dropped = self.dropped, None
        if dropped is None:
            return None
        return unmarked(features).masked_fill(dropped[..., None], float("nan"))


def first_in_segments(run: EncoderRun, features: Tensor, final: Tensor) -> Tensor:
    """(..., U, d) features with the rows that are not marked in ``final`` first in each segment."""
    dropped = marked(final)
    if run.grid is None:
        order = dropped.int().argsort(dim=-1, stable=True)
        return features.gather(-2, order[..., None].expand_as(features))
    segment = torch.repeat_interleave(torch.tensor(run.full_lengths), output_size=dropped.numel())
    segment = upload(segment, features.device).view_as(dropped)
    order = (2 * segment + dropped).flatten().argsort(stable=True)
    return features.flatten(0, -2)[order].view_as(features)
