"""What becomes of a static cache when its prompt was merged: layers of constant, shorter length.

A prefill is merged in layers that grow (:mod:`illava.stages.cache`), since how much of it is left only its
pictures tell. Behind it the layers of a static cache become static again, each as long as what is left and
what may still come. So ``generate`` compiles decoding as it does for the plain model, and CUDA graphs find
every tensor where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer

from ..errors import UnsupportedError
from .cache import Merged, MergedLayer, refuse_without
from .hooks import Owner
from .llm_masks import LlmMasks

ROUNDED = 64
"""Room is a multiple of that many tokens: prompts of about one length then share compiled code and graphs."""


class StaticMergedLayer(Merged, StaticLayer):
    """A StaticLayer that begins with a merged prompt; empty again after ``reset``, and then a plain one."""

    def __init__(self, merged: MergedLayer) -> None:
        assert merged.room is not None
        assert merged.columns is not None
        super().__init__(merged.room)
        self.owner: Owner | None = merged.owner
        self.group = merged.group
        self.dropped = merged.dropped
        """Logical minus physical length, counting no free places."""
        keys, values = merged.keys, merged.values
        held, room = keys.shape[2], merged.room - merged.dropped
        self.whole_room = merged.room
        self.max_cache_len = min(merged.room, -(-room // ROUNDED) * ROUNDED)
        self.lazy_initialization(keys, values)
        self.keys[:, :, :held], self.values[:, :, :held] = keys, values
        self.cumulative_length.fill_(held)
        self.real = torch.ones(len(keys), self.max_cache_len, dtype=torch.bool, device=keys.device)
        """(B, room): False where padding or filler is held."""
        self.real[:, :held] = merged.columns >= 0
        torch._dynamo.mark_static_address(self.real)

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.dropped and self.owner is not None:
            refuse_without(self.owner)
        return super().update(*args, **kwargs)  # type: ignore[no-any-return]

    def get_seq_length(self) -> Any:
        """(), int64: the logical length."""
        return self.cumulative_length + self.dropped if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.max_cache_len, self.dropped

    def seen(self, queries: int) -> Tensor:
        """(B, 1, queries, room) bool: which keys the next ``queries`` tokens may attend to."""
        places = torch.arange(self.max_cache_len, device=self.keys.device)
        asking = torch.arange(queries, device=self.keys.device) + self.cumulative_length
        return (self.real[:, None] & (places <= asking[:, None]))[:, None]

    def pad(self, padding: Tensor) -> None:
        """Note which of the next tokens are real: (B, queries) bool."""
        start = int(self.cumulative_length)
        self.real[:, start : start + padding.shape[1]] = padding.to(self.real.device)

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized, self.max_cache_len = False, self.whole_room
        self.dropped, self.group = 0, ()
        # A new one: the place of the old one may be held by a graph.
        self.cumulative_length = torch.tensor(0, dtype=torch.int64, device=self.cumulative_length.device)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        if self.is_initialized:
            self.real = self.real.index_select(0, beam_idx.to(self.real.device))


class StaticMasks:
    """The masks of a pass on static layers behind a merged prefill, each made once for its group."""

    def __init__(self, cache: Cache, masks: LlmMasks, queries: int, dtype: torch.dtype) -> None:
        self.cache, self.masks, self.queries, self.dtype = cache, masks, queries, dtype
        self._made: dict[tuple[int, ...], Tensor] = {}

    def note_padding(self, padding: Tensor | None, mask: Any) -> None:
        """Of a further turn, by the model's (B, L) mask, or the one for the first layer made of it."""
        if self.queries == 1:
            return
        layers: list[Any] = self.cache.layers
        if padding is not None:
            new = padding[:, -self.queries :].bool()
        elif isinstance(mask, Tensor) and mask.dim() == 4:
            # Every new token that is real is seen by the last one.
            start = int(layers[0].cumulative_length)
            new = mask[:, 0, -1, start : start + self.queries]
            new = new if new.dtype == torch.bool else new == 0
        else:
            return
        for layer in layers:
            layer.pad(new)

    def differs(self, index: int) -> bool:
        """Whether a layer holds other tokens than the first one."""
        layers: list[Any] = self.cache.layers
        return bool(layers[index].group != layers[0].group)

    def for_layer(self, index: int) -> Tensor:
        """(B, 1, queries, room): boolean, or additive for eager attention."""
        layer = self.cache.layers[index]
        if layer.group not in self._made:
            seen = layer.seen(self.queries)
            self._made[layer.group] = self.masks.as_wanted(seen, self.dtype)
        return self._made[layer.group]


def is_static(cache: Cache | None) -> bool:
    """Whether ``cache`` holds a merged prefill in static layers."""
    first = cache.layers[0] if cache is not None and cache.layers else None
    return isinstance(first, StaticMergedLayer) and bool(first.group)


def static_refusal(masks: LlmMasks, recurrent: Sequence[bool], cache: Cache) -> str | None:
    """Why a merged prefill cannot be held in static layers, or None."""
    if masks.ready_made or any(recurrent):
        return "layers that slide, are recurrent or are handed their masks ready made"
    if masks.backend not in ("sdpa", "eager"):
        return f"attention implementation {masks.backend!r}"
    if cache.offloading:
        return "offloading"
    return None


def settle(cache: Cache) -> None:
    """Behind a prefill: make what was static before it static again, in place."""
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, MergedLayer) and layer.room is not None:
            if layer.columns is not None:
                cache.layers[index] = StaticMergedLayer(layer)
                continue
            # Nothing was merged after all, or the prefill failed.
            cache.layers[index] = plain = StaticLayer(layer.room)
            if layer.is_initialized and layer.keys.shape[2]:
                plain.update(layer.keys, layer.values)


def check_room(layers: list[Any], length: int) -> None:
    """Raise UnsupportedError where a prompt of ``length`` tokens is longer than static layers are."""
    rooms = [layer.room for layer in layers if isinstance(layer, MergedLayer) and layer.room is not None]
    if rooms and length > min(rooms):
        room = min(rooms)
        raise UnsupportedError(f"a static cache of {room} tokens is shorter than the prompt of {length}")
