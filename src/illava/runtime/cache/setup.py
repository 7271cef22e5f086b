"""Preparing the layers of a cache for a merged prefill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    StaticLayer,
)

from ...errors import UnsupportedError
from ..hooks import Owner
from .merged import MergedLayer


def prepare_for_merging(
    cache: Cache,
    windows: Sequence[int | None],
    owner: Owner | None = None,
    not_static: str | None = "this model",
) -> list[Any]:
    """Make every layer of a cache a MergedLayer, in place, and return them.

    ``windows`` has an entry for every layer of the model: its sliding window, or None. Tokens in a dynamic
    cache, of a merged prefill or of plain text, are kept. Static layers must be empty; ``not_static`` is the
    reason why they are not supported, or None.

    Raises UnsupportedError for quantised and other special layers, and for filled static and recurrent ones.
    """
    if any(isinstance(layer, StaticLayer) for layer in cache.layers):
        return _prepare_static(cache, windows, owner, not_static)
    known = (DynamicLayer, DynamicSlidingWindowLayer, MergedLayer, LinearAttentionLayer)
    unsupported = {type(layer).__name__ for layer in cache.layers if type(layer) not in known}
    for layer, window in zip(cache.layers, windows, strict=False):
        if type(layer) is DynamicSlidingWindowLayer and layer.sliding_window != window:
            unsupported.add(
                f"{type(layer).__name__} with a window of {layer.sliding_window}, which this model lacks"
            )
    lazy = cache.layer_class_to_replicate
    if lazy not in (None, DynamicLayer):
        unsupported.add(lazy.__name__)
    if unsupported:
        raise UnsupportedError(
            f"illava needs a DynamicCache (transformers' default), got {', '.join(sorted(unsupported))}"
        )
    layers: list[Any] = [MergedLayer(owner, window) for window in windows]
    layers += [MergedLayer(owner) for _ in cache.layers[len(windows) :]]
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, LinearAttentionLayer):
            if cache.get_seq_length() > 0:
                raise UnsupportedError(
                    "pictures on top of a filled cache are not supported for models with recurrent layers; "
                    "pass the whole chat at once with a fresh cache"
                )
            # A state of constant size, which has not seen dropped tokens.
            layers[index] = layer
        elif isinstance(layer, MergedLayer) and layer.get_seq_length() > 0:
            layers[index] = layer
        elif isinstance(layer, MergedLayer):
            layers[index].replaced = layer.replaced
        elif layer.get_seq_length() > 0:
            _move(layer, layers[index])
    cache.layers[:] = layers
    return layers


def refuse_static(reason: str) -> None:
    """Raise UnsupportedError, with the reason why static layers cannot hold a merged prompt."""
    raise UnsupportedError(f"static caches are not supported with {reason}; use a DynamicCache")


def refuse_filled(cache: Cache, refusal: str | None = None) -> None:
    """Raise UnsupportedError for filled static caches, and for all of them if there is a ``refusal``."""
    if refusal is not None and any(isinstance(layer, StaticLayer) for layer in cache.layers):
        refuse_static(refusal)
    if any(isinstance(layer, StaticLayer) and layer.get_seq_length() > 0 for layer in cache.layers):
        raise UnsupportedError(
            "pictures on top of a filled static cache are not supported; use a DynamicCache, or pass the "
            "whole chat at once with a fresh cache"
        )


def _prepare_static(
    cache: Cache, windows: Sequence[int | None], owner: Owner | None, refusal: str | None
) -> list[Any]:
    """Replace empty static layers by dynamic ones; after the prefill they become static again."""
    if refusal is not None:
        refuse_static(refusal)
    refuse_filled(cache)
    layers = [MergedLayer(owner, window) for window in windows]
    for layer, static in zip(layers, cache.layers, strict=True):
        layer.replaced = static
    cache.layers[:] = layers
    return layers


def _move(layer: DynamicLayer, merged: MergedLayer) -> None:
    """Move the text tokens of a plain layer into a merged one."""
    length, held = layer.get_seq_length(), layer.keys.shape[2]
    merged.lazy_initialization(layer.keys, layer.values)
    merged.keys, merged.values = layer.keys, layer.values
    # A sliding layer holds the last tokens.
    columns = torch.arange(length - held, length, device=layer.keys.device)
    merged.columns, merged.prompt_length = columns.expand(len(layer.keys), -1), length
    merged.dropped = merged.evicted = length - held
