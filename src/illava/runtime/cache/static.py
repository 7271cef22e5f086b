"""A static cache whose prompt was merged: layers of constant, shorter length.

A prefill is merged in dynamic layers (:mod:`illava.runtime.cache.merged`), since the number of remaining
tokens depends on its pictures. After the prefill the layers of a static cache become static again. Each has
room for the remaining tokens and for those that may still be generated. So ``generate`` compiles decoding as
for the plain model. A decoding step reads only tensors at constant addresses, and numbers that depend on the
prompt are tensors as well. So a compiled step is reused by every prompt whose layers have the same length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer

from ...errors import UnsupportedError
from ..llm.masks import LlmMasks
from .merged import Merged, MergedLayer, check_crop, check_running
from .setup import refuse_static

BACKENDS = ("sdpa", "eager")
ROUNDED = 64
"""The room of a layer is a multiple of this, so that prompts of similar length share compiled code."""
LENGTHS = 8
"""Maximum number of lengths that a layer of one cache can have. Dynamo compiles a function at most 8 times,
and each length has a CUDA graph of its own."""


Shared = dict[tuple[int, ...], tuple[Tensor, Tensor, Tensor | None]]


class StaticMergedLayer(Merged, StaticLayer):
    """A StaticLayer that starts with a merged prompt. After ``reset`` it acts like an empty plain one."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.whole_room = room
        """Maximum number of logical tokens."""
        self.columns: Tensor | None = None
        """(B, room) int64: the logical column of each slot, -1 for padding and filler."""
        self.real: Tensor | None = None
        """(B, room) bool: False for padding and filler."""
        # As a tensor, like cumulative_length: compiled code must not depend on its value.
        self.columns_dropped = torch.tensor(0, dtype=torch.int64)
        """(), int64: logical minus physical length, without free slots."""

    def fill(self, merged: MergedLayer, shared: Shared) -> StaticMergedLayer:
        """Copy a prompt from ``merged``, into the tensors of the previous prompt if the shapes match.

        ``shared``: by group, the tensors shared by layers that hold the same tokens.
        """
        assert merged.columns is not None
        self.owner, self.group = merged.owner, merged.group
        held, dropped = merged.keys.shape[2], merged.dropped
        step = -(-self.whole_room // (LENGTHS * ROUNDED)) * ROUNDED
        room = min(self.whole_room, -(-(self.whole_room - dropped) // step) * step)
        shape = (*merged.keys.shape[:2], room, merged.keys.shape[3])
        same = self.columns is not None and self.keys is not None and self.keys.shape == shape
        if not same or (self.keys.dtype, self.keys.device) != (merged.keys.dtype, merged.keys.device):
            self.max_cache_len = room
            self.lazy_initialization(merged.keys, merged.values)
            self.columns_dropped = torch.zeros((), dtype=torch.int64, device=self.keys.device)
            torch._dynamo.mark_static_address(self.columns_dropped)
            self.columns = self.real = self.log_sizes = None
        self.keys[:, :, :held], self.values[:, :, :held] = merged.keys, merged.values
        self.cumulative_length.fill_(held)
        self.columns_dropped.fill_(dropped)
        if self.group not in shared:
            columns = torch.arange(room, device=self.keys.device).repeat(len(self.keys), 1) + dropped
            columns[:, :held] = merged.columns
            used = any(self.columns is other for other, *_ in shared.values())
            columns, real = self._store(columns, used)
            shared[self.group] = columns, real, self._store_sizes(merged.key_log_sizes(), room, used)
        self.columns, self.real, self.log_sizes = shared[self.group]
        return self

    def _store(self, columns: Tensor, used: bool) -> tuple[Tensor, Tensor]:
        """Columns, and which are real, in the existing tensors unless another group has ``used`` these."""
        if used or self.columns is None or self.real is None:
            self.columns, self.real = torch.empty_like(columns), torch.empty_like(columns, dtype=torch.bool)
            for tensor in (self.columns, self.real):
                torch._dynamo.mark_static_address(tensor)
        return self.columns.copy_(columns), self.real.copy_(columns >= 0)

    def _store_sizes(self, sizes: Tensor | None, room: int, used: bool) -> Tensor | None:
        """The same for (B, k) logarithms of sizes, with 0 for free slots."""
        if sizes is None:
            return None
        padded = torch.nn.functional.pad(sizes, (0, room - sizes.shape[1]))
        if used or self.log_sizes is None:
            self.log_sizes = torch.empty_like(padded)
            torch._dynamo.mark_static_address(self.log_sizes)
        return self.log_sizes.copy_(padded)

    @property
    def attended_log_sizes(self) -> Tensor | None:
        """(B, room) fp32: the logarithm of the size of each key, 0 for free slots; None if all are 0."""
        return self.log_sizes if self.group else None

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.group and self.owner is not None:
            check_running(self.owner)
        if not self.group and self.columns is not None:
            # After ``reset``, used for a prompt that is not merged.
            self._release()
        return super().update(*args, **kwargs)  # type: ignore[no-any-return]

    def get_seq_length(self) -> Any:
        """(), int64: the logical length."""
        if not self.group:
            return super().get_seq_length()
        return self.cumulative_length + self.columns_dropped

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        # The masks that the model makes have this length; they are replaced by illava's own.
        return (self.max_cache_len if self.group else self.whole_room), 0

    def update_padding(self, padding: Tensor) -> None:
        """Read from the model's (B, L) mask which tokens are real, including new ones."""
        assert self.columns is not None
        assert self.real is not None
        padding = padding.to(self.real.device).bool()
        length = padding.shape[1]
        known = padding.gather(1, self.columns.clamp(0, length - 1)) | (self.columns >= length)
        self.real.copy_((self.columns >= 0) & known)

    def seen(self, queries: int) -> Tensor:
        """(B, 1, queries, room) bool: which keys the next ``queries`` tokens may attend to."""
        assert self.real is not None
        slots = torch.arange(self.max_cache_len, device=self.keys.device)
        own = torch.arange(queries, device=self.keys.device) + self.cumulative_length
        seen = self.real[:, None] & (slots <= own[:, None])
        # Padding attends to itself, so that its softmax is not empty.
        return (seen | (slots == own[:, None]))[:, None]

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens, given as a number <= 0. None of them may have been merged."""
        if tokens_to_remove == 0 or not self.is_initialized:
            return
        count, held = -tokens_to_remove, int(self.cumulative_length)
        if self.group:
            assert self.columns is not None
            length = held + int(self.columns_dropped)
            check_crop(self.columns[:, max(0, held - count) : held], length, tokens_to_remove)
        # In place, since compiled code reads the tensor at this address. New tokens overwrite the old ones.
        self.cumulative_length.sub_(count)

    def reset(self) -> None:
        if not self.group:
            super().reset()
            return
        # The tensors are reused for the next prompt.
        self.group = ()
        self.cumulative_length.zero_()

    def _release(self) -> None:
        self.keys = self.values = self.columns = self.real = self.log_sizes = None
        self.is_initialized, self.max_cache_len = False, self.whole_room
        self.cumulative_length = torch.zeros_like(self.cumulative_length)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        if self.columns is not None and self.real is not None:
            # No longer shared: the other layers of the group select their own.
            index = beam_idx.to(self.real.device)
            self.columns, self.real = self.columns.index_select(0, index), self.real.index_select(0, index)
            if self.log_sizes is not None:
                self.log_sizes = self.log_sizes.index_select(0, index)


class StaticMasks:
    """The masks of a pass on static layers after a merged prefill, each made once per group."""

    def __init__(self, cache: Cache, masks: LlmMasks, queries: int, dtype: torch.dtype) -> None:
        if masks.backend not in BACKENDS:
            refuse_static(f"attention implementation {masks.backend!r}")
        self.layers: list[Any] = cache.layers
        self.masks, self.queries, self.dtype = masks, queries, dtype
        self._made: dict[tuple[int, ...], Tensor] = {}

    def layer_arguments(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments with the layer's own mask, if it holds other tokens than the first layer."""
        if self.layers[index].group == self.layers[0].group:
            return None
        return args, {**kwargs, "attention_mask": self.for_layer(index)}

    def for_layer(self, index: int) -> Tensor:
        """(B, 1, queries, room): boolean, or additive for eager attention."""
        layer = self.layers[index]
        if layer.group not in self._made:
            self._made[layer.group] = self.masks.as_wanted(layer.seen(self.queries), self.dtype)
        return self._made[layer.group]


def is_static(cache: Cache | None) -> bool:
    """Whether ``cache`` holds a merged prefill in static layers."""
    first = cache.layers[0] if cache is not None and cache.layers else None
    return isinstance(first, StaticMergedLayer) and bool(first.group)


def update_padding(cache: Cache, padding: Tensor | None) -> None:
    """Read from the model's (B, L) mask which tokens are real; None: all are, or nothing has changed."""
    if padding is not None:
        for layer in {id(layer.real): layer for layer in cache.layers}.values():
            layer.update_padding(padding)


def static_refusal(masks: LlmMasks, recurrent: Sequence[bool], cache: Cache) -> str | None:
    """Why static layers cannot hold a merged prefill, or None."""
    if masks.ready_made or any(recurrent):
        return "sliding windows, recurrent layers or bidirectional image attention"
    if masks.backend not in BACKENDS:
        return f"attention implementation {masks.backend!r}"
    if cache.offloading:
        return "offloading"
    return None


@torch.compiler.disable
def settle(cache: Cache) -> None:
    """After a prefill: convert the layers that were static before it to static ones again, in place."""
    shared: Shared = {}
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, MergedLayer) and layer.replaced is not None:
            static = layer.replaced
            if layer.columns is None:
                # Nothing was merged, or the prefill failed.
                if layer.is_initialized and layer.keys.shape[2]:
                    static.update(layer.keys, layer.values)
            elif isinstance(static, StaticMergedLayer):
                static.fill(layer, shared)
            else:
                static = StaticMergedLayer(static.max_cache_len).fill(layer, shared)
            cache.layers[index] = static


def check_room(layers: list[Any], length: int) -> None:
    """Raise UnsupportedError if a prompt of ``length`` tokens is longer than the static layers."""
    merged = [layer for layer in layers if isinstance(layer, MergedLayer)]
    static = [layer.replaced for layer in merged if layer.replaced is not None]
    room = min((getattr(layer, "whole_room", layer.max_cache_len) for layer in static), default=length)
    if length > room:
        raise UnsupportedError(f"a static cache of {room} tokens is shorter than the prompt of {length}")
