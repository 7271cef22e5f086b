"""What the dynamic and the static layers of a merged cache have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedError
from ..hooks import Owner


class Merged:
    """Base of the cache layers that hold the remaining tokens of a prefill."""

    group: tuple[int, ...] = ()
    """For each prefill, the number of merges before this layer. Layers of one group hold the same tokens."""
    owner: Owner | None = None
    log_sizes: Tensor | None = None
    """The logarithms of the sizes of the keys, fp32, in the places of their columns; None if all are 0."""

    @property
    def _sliding_window_tensor(self) -> Any:
        # DynamicCache reads this attribute of every layer that it splits into tuples of keys and values.
        if self.group:
            raise UnsupportedError(
                "a merged cache cannot be split into keys and values, since these do not record which tokens "
                "were dropped; copy or pickle it whole"
            )
        raise AttributeError("_sliding_window_tensor")


@dataclass(frozen=True)
class Expected:
    """The tokens of a prefill that a layer will receive, shared by all layers that hold the same tokens."""

    columns: Tensor
    """(B, n) int64: the logical column of each remaining token, counted from the first column of the cache;
    -1 for filler."""
    length: int
    """Tokens of the prompt, including dropped ones."""
    group: int
    """Number of merges of this prefill before the layer."""
    padded: bool
    """Whether any token of the prompt, or any token cached earlier, is padding or filler."""
    log_sizes: Tensor | None = None
    """(B, n) fp32: the logarithm of each token's size, or None."""


def check_crop(last: Tensor, length: int, tokens_to_remove: int) -> None:
    """Raise UnsupportedError unless (B, n) columns are those of the last n tokens of a logical length."""
    count = -tokens_to_remove
    expected = torch.arange(length - count, length, device=last.device) if 0 < count <= length else None
    if expected is None or last.shape[1] != count or not bool((last == expected).all()):
        raise UnsupportedError(
            f"a merged cache can only be cropped by a number <= 0 of tokens after the last one that was "
            f"dropped, got {tokens_to_remove}"
        )


def check_running(owner: Owner) -> None:
    """Raise UnsupportedError if a cache is used by anything but the accelerated model that merged it."""
    if not (owner.active and owner.running):
        raise UnsupportedError(
            "this cache was filled while the model was accelerated and can only be used while it is "
            "accelerated; run the prompt again"
        )
