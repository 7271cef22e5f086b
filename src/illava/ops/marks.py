"""Dropped rows among features are marked with NaN, which every operation on single rows preserves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import kernels
from .precision import full_precision
from .transfers import upload


def marked(features: Tensor) -> Tensor:
    """(...) bool: which rows of (..., d) features the encoder stage dropped."""
    return features[..., 0].isnan()


def unmarked(features: Tensor) -> Tensor:
    """(..., d) features without marks: a NaN that the model itself computed is replaced with infinity.

    Only the first channel is replaced, since only it holds marks; norms turn the infinity into NaN again.
    Without this, numerical overflow would look like a dropped token.
    """
    first = features[..., :1]
    return torch.cat([first.masked_fill(first.isnan(), torch.inf), features[..., 1:]], -1)


def count_marked(features: Any) -> Tensor:
    """(), int64: number of marked rows in the features that a packing or pooling function returned."""
    parts = (
        [features]
        if isinstance(features, Tensor)
        else features[0]
        if isinstance(features, tuple)
        else features
    )
    return torch.stack([marked(part).sum() for part in parts]).sum()


def any_marked(features: Any) -> bool:
    """Whether a tensor of features, or any of several, has marked rows. Waits for the device."""
    parts = [features] if isinstance(features, Tensor) else features
    return any(bool(marked(part).any()) for part in parts)


def mark_through(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that may average feature rows so that it ignores marked rows.

    Every returned row is the average over survivors only, with the weights of the function itself; they are
    measured by applying the function to a one-channel indicator. A row is marked if survivors have less than
    half of its weight. Rows that the function copies are returned unchanged, bit for bit.
    """

    def run(features: Any, *args: Any, **kwargs: Any) -> Any:
        parts = [features] if isinstance(features, Tensor) else list(features)

        def rebuild(parts: list[Tensor]) -> Any:
            return parts[0] if isinstance(features, Tensor) else type(features)(parts)

        filled = rebuild([part.masked_fill(marked(part)[..., None], 0) for part in parts])
        alive = rebuild([(~marked(part)).float()[..., None] for part in parts])
        shares_kwargs = dict(kwargs)
        if kwargs.get("image_newline") is not None:
            shares_kwargs["image_newline"] = kwargs["image_newline"].new_ones(1)
        values, shares = function(filled, *args, **kwargs), function(alive, *args, **shares_kwargs)
        if isinstance(values, Tensor):
            return _average(values, shares)
        rows, *rest = values
        return ([_average(v, s) for v, s in zip(rows, shares[0], strict=True)], *rest)

    return run


def _average(values: Tensor, shares: Tensor) -> Tensor:
    # A row that is not finite must not be hidden by marking it as dropped.
    dropped = (shares < 0.5) & finite(values)[..., None]
    # The weights sum to one within rounding: a row whose sources all survive is unchanged, bit for bit.
    whole = (shares - 1).abs() < 1e-5
    rows = torch.where(whole, values, values / shares.masked_fill(dropped | whole, 1).to(values.dtype))
    return unmarked(rows).masked_fill(dropped, float("nan"))


def finite(rows: Tensor) -> Tensor:
    """(...) bool: which of (..., d) rows contain neither NaN nor infinity."""
    return _sums(rows).isfinite()


def _sums(rows: Tensor) -> Tensor:
    """(...) sums of (..., d) rows, in float32, which sums of finite float16 numbers cannot overflow."""
    return rows.detach().sum(-1, dtype=torch.promote_types(rows.dtype, torch.float32))


def zero_or_nan(sound: Tensor) -> Tensor:
    """(...) fp32: zero where ``sound`` is True, NaN elsewhere. Adding it makes values at other places NaN."""
    return torch.zeros_like(sound, dtype=torch.float32).masked_fill(~sound, float("nan"))


@full_precision
def propagated(survivors: Tensor, units: Tensor, lengths: Sequence[int], left: Sequence[int]) -> Tensor:
    """The survivors of consecutive segments, all NaN in those of which a unit is NaN or infinite.

    Args:
        survivors: (P, D), any floating dtype.
        units: (U, D'), the units that the segments had.
        lengths: units of each segment, summing to U.
        left: survivors of each segment, summing to P.
    """
    if kernels.enabled(survivors, units):
        from .kernels.guarding import propagate

        return propagate(survivors, units, lengths, left)
    total = _sums(units)
    # Zero, or NaN where a sum is not finite.
    bad = total - total
    if len(lengths) == 1:
        return survivors + bad.sum()
    if len({*zip(lengths, left, strict=True)}) == 1:
        each = bad.view(len(lengths), -1).sum(1).to(survivors.dtype)
        return (survivors.view(len(left), left[0], -1) + each[:, None, None]).flatten(0, 1)
    of, rows = (
        upload(torch.repeat_interleave(torch.tensor(n), output_size=sum(n)), bad.device)
        for n in (lengths, left)
    )
    each = bad.new_zeros(len(lengths)).index_add_(0, of, bad)
    return survivors + each[rows][:, None].to(survivors.dtype)
