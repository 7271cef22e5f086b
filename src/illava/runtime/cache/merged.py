"""A KV cache layer that holds fewer tokens than the sequence has.

It reports logical lengths, which include dropped tokens, so that ``generate`` slices inputs and continues
positions as for the plain model. For mask creation it acts like a sliding-window layer: the keys that it
holds are the last ones, at an offset of ``dropped`` columns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

from ...errors import UnsupportedError
from ..hooks import Owner
from .base import Expected as Expected
from .base import Merged as Merged
from .base import check_crop as check_crop
from .base import check_running as check_running

ROOM = 256
"""Generated tokens for which the table of sizes has room before it is copied."""


class MergedLayer(Merged, DynamicLayer):
    """A DynamicLayer that does not receive dropped tokens."""

    def __init__(self, owner: Owner | None = None, window: int | None = None) -> None:
        super().__init__()
        self.owner = owner
        self.window = window
        """Size of the sliding window in columns, including that of the query, or None."""
        self.replaced: StaticLayer | None = None
        """The static layer that this one replaces during a prefill."""
        # Mask creation reads the sizes of a cache from the first layer without a sliding window.
        self.is_sliding = window is not None
        self.dropped = 0
        """Logical minus physical length."""
        self.columns: Tensor | None = None
        """(B, n) int64: the logical column of each key up to the end of the last prefill, -1 for filler."""
        self.prompt_length = 0
        """Logical length up to the end of the last prefill."""
        self.evicted = 0
        """How many of the dropped tokens were evicted by a sliding window."""
        self.ends: list[int] | None = None
        """In a sliding layer, for each key held, the last column (over all rows) that must have left the
        window before the key can be evicted; None until it is read from the device, after a prefill."""
        self._groups_held: tuple[int, ...] = ()
        self.padded = False
        """Whether any key of a prefill is padding or filler, so that decoding needs a mask."""
        self.held = 0
        """Keys held after the last prefill, before eviction by a sliding window."""
        self.expected: Expected | None = None
        """The prefill that this layer receives next, or None."""
        self.attended: Tensor | None = None
        """(B, k) columns of all keys that the last prefill attended to, like :attr:`columns`."""
        self.attended_log_sizes: Tensor | None = None
        """(B, k) fp32: the logarithms of the sizes of all keys that the last pass attended to, or None."""
        self._room: tuple[Tensor, Tensor] | None = None
        """``log_sizes``, and a copy of it with zeros behind, for generated tokens."""

    def expect(self, expected: Expected) -> None:
        """Announce the remaining tokens of a prefill. A second call before they arrive replaces the first."""
        if self.expected is None:
            self._groups_held = self.group
        self.group = (*self._groups_held, expected.group)
        self.expected, self.padded = expected, self.padded or expected.padded

    def _begin(self, n: int) -> None:
        """Start the expected prefill, of which ``n`` tokens are left."""
        assert self.expected is not None
        length = self.expected.length
        assert n == self.expected.columns.shape[1]
        self.log_sizes = self.key_log_sizes()
        columns, end, self.ends = self.key_columns(), self.get_seq_length() + length, None
        self.columns, self.prompt_length, self.expected, self.attended = columns, end, None, columns
        self.dropped += length - n
        self.held = self.physical_length() + n

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.owner is not None:
            check_running(self.owner)
        prefill = self.expected is not None
        if prefill:
            self._begin((args[0] if args else kwargs["key_states"]).shape[2])
        keys, values = super().update(*args, **kwargs)
        # Before eviction: these are the keys that the attention gets.
        self.attended_log_sizes = self.key_log_sizes()
        if self.window is not None and self.columns is not None:
            if prefill:
                # Columns ascend: these keys have left the window, whatever was dropped before them. The
                # others are evicted after the prefill, for all layers at once.
                self._evict_first(self.physical_length() - self.window + 1)
            else:
                self.evict(self.physical_length())
        return keys, values

    def evict(self, before: int) -> None:
        """Evict the first keys of a sliding layer, up to those whose columns are inside the window.

        ``before``: keys held before any of this pass was evicted. Fewer than the window are all kept.
        """
        assert self.window is not None
        length, held = self.get_seq_length(), self.physical_length()
        if self.ends is None:
            read_ends([self])
        if before < self.window or self.ends is None:
            return
        # Later tokens have consecutive columns.
        self.ends += range(length - (held - len(self.ends)), length)
        outside = bisect_right(self.ends, length - self.window)
        del self.ends[:outside]
        self._evict_first(outside)

    def _evict_first(self, outside: int) -> None:
        if outside <= 0:
            return
        columns, sizes = self.key_columns(), self.key_log_sizes()
        self.log_sizes = None if sizes is None else sizes[:, outside:]
        self.keys, self.values = self.keys[..., outside:, :], self.values[..., outside:, :]
        self.columns, self.prompt_length = columns[:, outside:], self.get_seq_length() + outside
        self.dropped += outside
        self.evicted += outside

    def physical_length(self) -> int:
        return super().get_seq_length()

    def get_seq_length(self, *args: object) -> int:
        length = super().get_seq_length()
        return length + self.dropped if length else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        length = super().get_seq_length()
        return length + query_length, self.dropped if length else 0

    def key_columns(self, queries: int = 0) -> Tensor:
        """(B, k) int64: the logical column of each key held and of each new one, -1 for filler.

        The new keys are those of the expected prefill, or else ``queries`` consecutive ones.
        """
        if self.expected is not None:
            new = self.expected.columns
            return torch.cat([self._held_columns(0), new], 1) if self.physical_length() else new
        return self._held_columns(queries)

    def _held_columns(self, queries: int) -> Tensor:
        assert self.columns is not None
        generated = self.physical_length() - self.columns.shape[1] + queries
        after = torch.arange(self.prompt_length, self.prompt_length + generated, device=self.columns.device)
        return torch.cat([self.columns, after.expand(len(self.columns), -1)], 1)

    def key_log_sizes(self) -> Tensor | None:
        """(B, k) fp32: the logarithm of the size of each key held, and of each of the expected prefill."""
        held, expected = self.log_sizes, self.expected
        if held is None and (expected is None or expected.log_sizes is None):
            return None
        new = 0 if expected is None else expected.columns.shape[1]
        length = self.physical_length() + new
        for whole in (held, None if expected is None else expected.log_sizes):
            if whole is not None and whole.shape[1] == length:
                return whole
        if expected is None and held is not None:
            return self._with_room(held, length)
        some: Any = expected.log_sizes if expected is not None and held is None else held
        sizes = some.new_zeros(len(some), length)
        if held is not None:
            sizes[:, : held.shape[1]] = held
        if expected is not None and expected.log_sizes is not None:
            sizes[:, length - new :] = expected.log_sizes
        return sizes

    def _with_room(self, held: Tensor, length: int) -> Tensor:
        """The sizes held, with zeros for generated tokens, of which most steps of decoding make none anew."""
        if self._room is None or self._room[0] is not held or self._room[1].shape[1] < length:
            rooms = torch.nn.functional.pad(held, (0, length + ROOM - held.shape[1]))
            self._room = held, rooms
        return self._room[1][:, :length]

    def key_padding(self, padding: Tensor | None, queries: int) -> Tensor:
        """(B, k) bool over the keys held plus ``queries`` new ones: True for real tokens.

        ``padding`` is the model's 2-D mask over the logical sequence, including new tokens, or None.
        """
        columns = self.key_columns(queries)
        real = columns >= 0
        if padding is None:
            return real
        return real & padding.to(columns.device).bool().gather(1, columns.clamp(min=0))

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens, given as a number <= 0. None of them may have been merged."""
        if tokens_to_remove == 0 or not self.is_initialized:
            return
        assert self.columns is not None
        length, count = self.get_seq_length(), -tokens_to_remove
        check_crop(self.key_columns()[:, -count:] if count > 0 else self.columns, length, tokens_to_remove)
        if self.evicted:
            raise UnsupportedError(
                "a sliding-window layer that has evicted tokens cannot be cropped; decode without assistant"
            )
        # Counted from the end: the logical length does not give the index of a key.
        self.keys, self.values = self.keys[..., :-count, :], self.values[..., :-count, :]
        if self.physical_length() < self.columns.shape[1]:
            self._change_tables(lambda table: table[:, : self.physical_length()])
            self.prompt_length = length - count
        if self.ends is not None:
            del self.ends[self.physical_length() :]

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False
        self.dropped = self.evicted = self.prompt_length = 0
        self.columns = self.expected = self.attended = self.ends = None
        self.log_sizes = self.attended_log_sizes = self._room = None
        self.padded, self.group, self._groups_held = False, (), ()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._select_rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._select_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._change_tables(lambda table: table.repeat_interleave(repeats, dim=0))

    def _select_rows(self, indices: Tensor) -> None:
        # ``ends`` remain: those of all rows are upper bounds of those of some.
        self._change_tables(lambda table: table[indices.to(table.device)])

    def _change_tables(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the tables of columns and of sizes."""
        self.columns = None if self.columns is None else change(self.columns)
        self.log_sizes = None if self.log_sizes is None else change(self.log_sizes)


def read_ends(layers: Sequence[Any]) -> None:
    """Read ``ends`` of the sliding layers that need them, in one transfer."""
    unread = [
        layer
        for layer in layers
        if isinstance(layer, MergedLayer) and layer.window is not None and layer.ends is None
    ]
    unread = [layer for layer in unread if layer.columns is not None]
    # Layers that hold the same tokens share their table.
    tables = {id(layer.columns): layer.key_columns() for layer in unread}
    if not tables:
        return
    device = unread[0].key_columns().device
    values = torch.cat([table.amax(0).cummax(0).values.to(device) for table in tables.values()]).tolist()
    read: dict[int, list[int]] = {}
    for key, table in tables.items():
        read[key], values = values[: table.shape[1]], values[table.shape[1] :]
    for layer in unread:
        layer.ends = list(read[id(layer.columns)])


def evict(layers: Sequence[Any]) -> None:
    """After a prefill: evict the keys of all sliding layers that are outside of their windows."""
    read_ends(layers)
    for layer in layers:
        if isinstance(layer, MergedLayer) and layer.ends is not None:
            layer.evict(layer.held)
            # A slice would hold the memory of the evicted keys until the next token.
            layer.keys, layer.values = layer.keys.contiguous(), layer.values.contiguous()


def is_merged(cache: Cache | None) -> bool:
    """Whether ``cache`` holds a prefill from which tokens were dropped."""
    return cache is not None and any(
        isinstance(layer, MergedLayer) or (isinstance(layer, Merged) and bool(layer.group))
        for layer in cache.layers
    )
