"""Marks of dropped rows among features: NaN, which whatever handles rows one by one carries along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def marked(features: Tensor) -> Tensor:
    """(..., d) features to (...) bool: which rows the encoder stage dropped."""
    return features[..., 0].isnan()


def unmarked(features: Tensor) -> Tensor:
    """(..., d) features without marks: a NaN of the model's own becomes infinite where a mark would be.

    Norms turn it into NaN again. Otherwise overflow would look like a dropped token.
    """
    first = features[..., :1]
    return torch.cat([first.masked_fill(first.isnan(), torch.inf), features[..., 1:]], -1)


def count_marked(features: Any) -> int:
    """Marked rows of what a function that arranges features returned."""
    parts = (
        [features]
        if isinstance(features, Tensor)
        else features[0]
        if isinstance(features, tuple)
        else features
    )
    return sum(int(marked(part).sum()) for part in parts)


def mark_through(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that may average feature rows respect marked ones.

    Every row it returns becomes the average over survivors only, by the weights the function itself uses
    (found by running it on a one-channel indicator), and is marked when survivors make up less than half
    of those weights. Rows that are copied come out as they went in, bit for bit.
    """

    def run(features: Any, *args: Any, **kwargs: Any) -> Any:
        parts = [features] if isinstance(features, Tensor) else list(features)
        if not any(bool(marked(part).any()) for part in parts):
            return function(features, *args, **kwargs)

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
    # What is not finite must not go unseen with the units around it.
    dropped = (shares < 0.5) & finite(values)[..., None]
    # Weights add up to one within rounding: a row whose sources all live stays what it is, bit for bit.
    whole = (shares - 1).abs() < 1e-5
    rows = torch.where(whole, values, values / shares.masked_fill(dropped | whole, 1).to(values.dtype))
    return unmarked(rows).masked_fill(dropped, float("nan"))


def finite(rows: Tensor) -> Tensor:
    """(..., d) rows to (...) bool: which hold neither NaN nor infinity."""
    # Summed in float32, which finite float16 cannot overflow.
    return rows.detach().sum(-1, dtype=torch.promote_types(rows.dtype, torch.float32)).isfinite()


def zero_or_nan(sound: Tensor) -> Tensor:
    """(...) bool to fp32: zero where it is True, NaN elsewhere, to be added to what must not look sound."""
    return torch.zeros_like(sound, dtype=torch.float32).masked_fill(~sound, float("nan"))
