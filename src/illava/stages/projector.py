"""The projector: hand the model as many features as it has placeholders, with the dropped ones marked.

The model checks that every placeholder finds its feature, so survivors go back to their places in a
full-size tensor whose other rows are NaN. Whatever handles features row by row afterwards (splitting by
picture, undoing window order, unpadding, scattering, beams) carries the mark along, the LLM stage drops
the marked rows, and a drop forgotten anywhere is loud. What averages rows (interpolation, pooling) runs
on zeros in place of the mark and on the share of survivors beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..families import ModelParts
from .encoder import EncoderStage
from .hooks import Hooks


class ProjectorStage:
    """Expands the projector's output to full size; marks what the encoder stage dropped."""

    def __init__(self, parts: ModelParts, encoder: EncoderStage, hooks: Hooks) -> None:
        self.encoder = encoder
        hooks.post(parts.projector, self._expand)
        for name in parts.family.row_mixers:
            hooks.attribute(parts.base, name, self._mixing(name, getattr(parts.base, name)))

    def _mixing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        through = mark_through(function)

        def mix(features: Any, *args: Any, **kwargs: Any) -> Any:
            if self.encoder.run is not None:
                # Sizes only: the report asks the function later where each feature comes from.
                shapes = [len(part) for part in features]
                self.encoder.run.mixing = (name, function, shapes, args, kwargs)
            return through(features, *args, **kwargs)

        return mix

    def _expand(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], features: Tensor
    ) -> Any:
        run = self.encoder.run
        if run is None or run.kept is None:
            return None
        full = features.new_full((sum(run.full_lengths), features.shape[-1]), float("nan"))
        full = full.index_copy(0, run.kept.to(features.device), features.reshape(-1, features.shape[-1]))
        # (P, d) for packed encoders, (tiles, n, d) for batched ones.
        return full if features.dim() == 2 else full.unflatten(0, (len(run.full_lengths), -1))


def marked(features: Tensor) -> Tensor:
    """(..., d) features to (...) bool: which rows the encoder stage dropped."""
    return features[..., 0].isnan()


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
        alive = rebuild([(~marked(part)).to(part.dtype)[..., None] for part in parts])
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
    dropped = shares < 0.5
    return torch.where(dropped, float("nan"), values / shares.masked_fill(dropped, 1))
