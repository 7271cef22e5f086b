"""A key/value cache layer that holds fewer tokens than the sequence has.

Outwards it speaks in logical lengths (dropped tokens counted), so that ``generate`` slices inputs and
continues positions as for the plain model; towards mask creation it acts like a sliding-window layer:
the keys it holds are the last ones, ``dropped`` columns in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from ..errors import UnsupportedError
from .hooks import Owner


class MergedLayer(DynamicLayer):
    """A DynamicLayer some of whose tokens were dropped before they entered it."""

    def __init__(self, owner: Owner | None = None) -> None:
        super().__init__()
        self.owner = owner
        self.dropped = 0
        """Logical minus physical length."""
        self.columns: Tensor | None = None
        """(B, n) int64: the logical column of each key of the prefill, -1 for filler."""
        self.prompt_length = 0
        """Logical length of the prefill."""
        self.group = 0
        """Layers of one group hold the same tokens and share masks."""
        self.padded = False
        """Whether any key of the prefill is padding or filler, so that decoding needs a mask."""

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.owner is not None and not self.owner.active:
            raise UnsupportedError(
                "this cache was filled while the model was accelerated and can only be used while it is; "
                "run the prompt again"
            )
        keys, values = super().update(*args, **kwargs)
        return keys, values

    def physical_length(self) -> int:
        return super().get_seq_length()

    def get_seq_length(self, *args: object) -> int:
        length = super().get_seq_length()
        return length + self.dropped if length else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        length = super().get_seq_length()
        return length + query_length, self.dropped if length else 0

    def key_padding(self, padding: Tensor | None, queries: int) -> Tensor:
        """(B, k) bool over the keys held plus ``queries`` new ones, True = a real token.

        ``padding`` is the model's 2-D mask over the logical sequence, new tokens included, or None.
        """
        assert self.columns is not None
        generated = self.physical_length() - self.columns.shape[1] + queries
        real = self.columns >= 0
        if padding is None:
            return torch.cat([real, real.new_ones(len(real), generated)], 1)
        padding = padding.bool()
        prompt = real & padding[:, : self.prompt_length].gather(1, self.columns.clamp(min=0))
        return torch.cat([prompt, padding[:, self.prompt_length : self.prompt_length + generated]], 1)

    def crop(self, tokens_to_remove: int) -> None:
        generated = self.get_seq_length() - self.prompt_length
        if tokens_to_remove > 0 or -tokens_to_remove > generated:
            raise UnsupportedError(
                f"a merged cache can be cropped by at most its {generated} generated tokens (a number <= 0), "
                f"got {tokens_to_remove}; assisted and prompt-lookup decoding are not supported yet"
            )
        if tokens_to_remove < 0:
            # Counted from the end: the logical length says nothing about where the keys lie.
            self.keys = self.keys[..., :tokens_to_remove, :]
            self.values = self.values[..., :tokens_to_remove, :]

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False
        self.dropped, self.columns, self.prompt_length, self.padded = 0, None, 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._select_columns(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._select_columns(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.columns is not None:
            self.columns = self.columns.repeat_interleave(repeats, dim=0)

    def _select_columns(self, indices: Tensor) -> None:
        if self.columns is not None:
            self.columns = self.columns[indices.to(self.columns.device)]


def is_merged(cache: Cache | None) -> bool:
    """Whether ``cache`` holds a prefill from which tokens were dropped."""
    return cache is not None and any(isinstance(layer, MergedLayer) for layer in cache.layers)


def prepare_for_merging(cache: Cache, num_layers: int, owner: Owner | None = None) -> list[MergedLayer]:
    """Make every layer of an empty dynamic cache a MergedLayer, in place, and return them.

    Raises UnsupportedError for caches that hold tokens already, and for static, quantised, sliding-window
    or other special layers.
    """
    strange = {
        type(layer).__name__ for layer in cache.layers if type(layer) not in (DynamicLayer, MergedLayer)
    }
    lazy = cache.layer_class_to_replicate
    if lazy not in (None, DynamicLayer):
        strange.add(lazy.__name__)
    if strange:
        raise UnsupportedError(
            f"illava needs a DynamicCache of full-attention layers (transformers' default), "
            f"got {', '.join(sorted(strange))}"
        )
    if cache.get_seq_length() > 0:
        raise UnsupportedError(
            "pictures on top of a filled cache (chat continuation, chunked prefill) are not supported yet; "
            "pass the whole prompt at once with a fresh cache"
        )
    layers = [MergedLayer(owner) for _ in range(max(num_layers, len(cache.layers)))]
    cache.layers[:] = layers
    return layers
