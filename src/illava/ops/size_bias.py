"""A bias on the logits of keys, as further channels of queries and keys instead of a mask.

The fused kernels of attention take no mask, or are slower with one. A channel that is constant in the queries
adds its value in a key to all logits of that key (ERA, arXiv 2606.31982).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MULTIPLE, WIDEST = 8, 256
"""Kernels of flash attention take heads whose width is a multiple of the first and at most the second."""


def width_with_channels(head_dim: int) -> int:
    """The width of heads of ``head_dim`` channels with the channels of a bias."""
    return -(-(head_dim + 2) // MULTIPLE) * MULTIPLE


Shared = dict[tuple[Any, ...], tuple[Tensor, ...]]
"""What attention layers with the same bias compute once."""


def with_channels(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float, shared: Shared | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values whose attention has ``bias`` added to the logits of each key.

    Two channels carry the bias: in bfloat16 a single one would round log(9) by 0.005, and the second one
    holds the remainder. The value in the queries is a power of two, which is exact in every dtype. All three
    tensors are padded with zeros to the same width, as the kernels require.

    Args:
        query: (B, H, q, h), any floating dtype.
        key: (B, H_kv, k, h).
        value: (B, H_kv, k, h'), h' <= h.
        bias: (B or 1, 1, 1, k) fp32.
        scaling: factor on the dot products, which the attention must be given: its default would follow the
            new width.
        shared: a dictionary that layers with the same bias share, so that each of them only launches the
            concatenations; nothing in it may outlive a change of the bias in place.

    Returns (B, H, q, w), (B, H_kv, k, w) and (B, H_kv, k, w), w the smallest multiple of 8 that is at least
    h + 2. The output of the attention has to be cut to its first h' channels.
    """
    query, key = _query_and_key(query, key, bias, scaling, shared)
    missing = query.shape[-1] - value.shape[-1]
    (zeros,) = _once(
        shared, ("zeros", missing, value.dtype, value.device), lambda: (value.new_zeros(1, 1, 1, missing),)
    )
    return query, key, _beside(value, zeros)


def _query_and_key(
    query: Tensor, key: Tensor, bias: Tensor, scaling: float, shared: Shared | None = None
) -> tuple[Tensor, Tensor]:
    extra = width_with_channels(query.shape[-1]) - query.shape[-1]
    constant = 2.0 ** round(-math.log2(scaling))
    kind = (scaling, extra, key.dtype, key.device)

    def of_queries() -> tuple[Tensor]:
        channels = query.new_zeros(1, 1, 1, extra)
        channels[..., :2] = constant
        return (channels,)

    def of_keys() -> tuple[Tensor, Tensor]:
        column = bias.to(torch.float32).transpose(2, 3) / (scaling * constant)
        first = column.to(key.dtype)
        rest = (column - first.to(torch.float32)).to(key.dtype)
        # The bias stays in the dictionary: as long as it is there, nothing else has its address.
        return torch.nn.functional.pad(torch.cat([first, rest], -1), (0, extra - 2)), bias

    place = (bias.data_ptr(), bias.shape, bias.stride()) if shared is not None else ()
    (queries,) = _once(shared, ("queries", *kind), of_queries)
    keys, _ = _once(shared, ("keys", *place, *kind), of_keys)
    return _beside(query, queries), _beside(key, keys)


def _once(shared: Shared | None, name: tuple[Any, ...], make: Callable[[], tuple[Tensor, ...]]) -> Any:
    if shared is None:
        return make()
    if name not in shared:
        shared[name] = make()
    return shared[name]


def _beside(heads: Tensor, channels: Tensor) -> Tensor:
    """(B, H, n, h) with further channels (B or 1, 1, n or 1, c)."""
    return torch.cat([heads, channels.expand(*heads.shape[:3], -1)], -1)


def biased_mask(mask: Tensor | None, bias: Tensor, rows: int) -> Tensor:
    """Add a bias to a mask.

    Args:
        mask: (B or 1, H or 1, q, k) boolean (True = may attend) or additive, or None.
        bias: (B or 1, 1, 1, k), in the dtype of the attention.
        rows: the number q of queries.

    Returns an additive mask.
    """
    if mask is None:
        return bias.expand(-1, -1, rows, -1)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, torch.finfo(bias.dtype).min)
    return mask + bias
