"""Attention masks and index tables for shortened sequences, whose rows may lose different tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128
"""Keys and queries of a block of flex attention, as in ``create_block_mask``."""


def places_of(chosen: Tensor, count: int) -> Tensor:
    """(count,) int64: the indices of the ``count`` places where a 1-D boolean tensor is True, ascending.

    As ``chosen.nonzero()``, for a number that the host knows, so that it does not wait for the device.
    """
    # A stable sort, with those places first.
    return (~chosen).argsort(stable=True)[:count]


def compact_rows(kept: Tensor, columns: Tensor, length: int, *, padded: bool = True) -> Tensor:
    """Indices of the kept tokens of each row, padded to equal length.

    Args:
        kept: (B, L) bool: the tokens to keep.
        columns: (B, L) int64: column of each token in the full prompt, -1 for padding and filler.
        length: the number n of tokens and of padding after them in the longest row. The host knows it, so
            that nothing is read from the device.
        padded: whether any of the (B, n) places may be filler.

    Returns (B, n) int64 indices into L, -1 for filler. Filler stands before the shorter rows, and in place of
    padding after a row, so that the last logits stand where the plain model has them.
    """
    if not padded:
        return (~kept).argsort(dim=1, stable=True)[:, :length]
    padded_after = (columns >= 0).int().flip(1).argmax(1, keepdim=True)
    first = length - padded_after - kept.sum(1, keepdim=True)
    # A wrong ``length`` must not write outside of the table, which would end the process on a GPU.
    place = (first + kept.cumsum(1) - 1).masked_fill(~kept, length).clamp(0, length)
    index = torch.arange(kept.shape[1], device=kept.device).expand_as(place)
    return place.new_full((len(kept), length + 1), -1).scatter_(1, place, index)[:, :length]


def take_rows(tensor: Tensor, columns: Tensor, *, padded: bool = True) -> Tensor:
    """Select from a (B or 1, L, ...) tensor at (B, n) columns: (B, n, ...), with zeros for filler (-1).

    Filler must not be NaN: it would reach sums even with weight zero. Without any (not ``padded``) the
    selection is a single operation for one row.
    """
    if not padded and len(columns) == 1:
        return tensor.index_select(1, columns[0].to(tensor.device))
    tensor = tensor.expand(len(columns), *tensor.shape[1:])
    batch = torch.arange(len(columns), device=tensor.device)[:, None]
    if not padded:
        return tensor[batch, columns.to(tensor.device)]
    taken = tensor[batch, columns.clamp(min=0).to(tensor.device)]
    real = (columns >= 0).to(tensor.device)
    return taken.masked_fill(~real.reshape(*real.shape, *[1] * (taken.dim() - 2)), 0)


def take_positions(positions: Tensor, columns: Tensor, *, padded: bool = True) -> Tensor:
    """Select from (B, L) or (axes, B, L) positions at (B, n) columns."""
    if positions.dim() == 2:
        return take_rows(positions, columns, padded=padded)
    return take_rows(positions.movedim(0, -1), columns, padded=padded).movedim(-1, 0).contiguous()


def take(table: Tensor, columns: Tensor, *, padded: bool = True) -> Tensor:
    """Select from a (B, L) int table at (B, n) columns; filler stays -1."""
    if not padded:
        return table.gather(1, columns)
    return table.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, -1)


def occurring(columns: Tensor, length: int) -> Tensor:
    """(B, length) bool: which columns occur in ``columns``, (B, n) with -1 for filler."""
    out = torch.zeros(len(columns), length + 1, dtype=torch.bool, device=columns.device)
    return out.scatter_(1, columns.where(columns >= 0, length), True)[:, :length]


def take_mask(mask: Tensor, columns: Tensor) -> Tensor:
    """Select from a (B or 1, H or 1, L, L) prefill mask at (B, n) columns: (B, H or 1, n, n).

    The mask may be boolean or additive. Filler keys are masked for every query but their own, so that no row
    of the softmax is empty.
    """
    index = columns.clamp(min=0).to(mask.device)
    filler = (columns < 0).to(mask.device)
    mask = mask.expand(len(columns), *mask.shape[1:])
    batch = torch.arange(len(columns), device=mask.device)[:, None, None]
    taken = mask[batch, :, index[:, :, None], index[:, None, :]].movedim(-1, 1)
    return _seal(taken, filler)


def causal_mask(real: Tensor, queries: int, dtype: torch.dtype, *, additive: bool) -> Tensor:
    """The (B, 1, q, k) causal mask of the last ``queries`` positions, given which keys are real, (B, k) bool.

    The mask is boolean (True = may attend), or additive in ``dtype`` for eager attention. A position that is
    not real attends to itself only, and no other position attends to it.
    """
    length = real.shape[1]
    keys = torch.arange(length, device=real.device)
    seen = keys <= keys[length - queries :, None]
    mask = (seen & real[:, None, :])[:, None]
    if queries > 1:
        mask = mask | (keys == keys[length - queries :, None])
    return as_additive(mask, dtype) if additive else mask


def as_additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask (True = may attend) as an additive mask in ``dtype``, for eager attention."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def column_mask(
    keys: Tensor, queries: Tensor, window: int | None, dtype: torch.dtype, *, additive: bool
) -> Tensor:
    """The (B, 1, q, k) causal mask of keys and queries given by their columns in the full sequence.

    Args:
        keys: (B, k) int64, -1 for keys that no query may attend to.
        queries: (B, q) int64. A query attends to the columns up to its own.
        window: number of columns, the query's own included, that it may attend to; None for all.
        dtype: of an additive mask.
        additive: whether to return an additive mask rather than a boolean one.

    A query without any key is filler or padding. It attends to every key, so that its softmax is not empty.
    """
    near, far = keys[:, None, :], queries[:, :, None].to(keys.device)
    seen = (near <= far) & (near >= 0)
    if window is not None:
        seen &= near > far - window
    seen = (seen | ~seen.any(-1, keepdim=True))[:, None]
    return as_additive(seen, dtype) if additive else seen


def block_mask(keys: Tensor, queries: Tensor, window: int | None, *, padded: bool = True) -> BlockMask:
    """As :func:`column_mask`, for flex attention, whose output is zero for a query without any key.

    Columns ascend, apart from -1. So the first and the last column of each block of keys and of queries tell
    which pairs of blocks the kernel computes. A mask of keys and queries is never held.

    Args:
        keys, queries, window: as for :func:`column_mask`.
        padded: whether ``keys`` or ``queries`` may have -1. Without it and without a window, the queries must
            be the last keys.
    """
    queries = queries.to(keys.device)
    if window is None and not padded:
        before = keys.shape[1] - queries.shape[1]

        def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return k <= q + before

    else:

        def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            key, query = keys[b, k], queries[b, q]
            before = (key >= 0) & (key <= query)
            return before if window is None else before & (query - key < window)

    some, every = _pairs_of_blocks(keys, queries, window)
    partial, whole = some & ~every, every
    return BlockMask.from_kv_blocks(
        *_listed(partial),
        *_listed(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=seen,
        seq_lengths=(queries.shape[1], keys.shape[1]),
    )


def _pairs_of_blocks(keys: Tensor, queries: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """(B, 1, Q, K) bool for each pair of blocks: whether some, and whether all pairs of tokens attend."""
    first_key, last_key, full_key = (part[:, None] for part in _bounds(keys))
    first, last, full = (part[:, :, None] for part in _bounds(queries))
    some = (last_key >= 0) & (first_key <= last)
    every = full_key & full & (last_key <= first)
    if window is not None:
        some &= first - last_key < window
        every &= last - first_key < window
    return some[:, None], every[:, None]


def _bounds(columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each block of (B, n) columns: the first and the last one, and whether all of them are real.

    A block without any has -1 as its last column, and a first one after all others.
    """
    blocks = torch.nn.functional.pad(columns, (0, -columns.shape[1] % BLOCK), value=-1)
    blocks = blocks.view(len(columns), -1, BLOCK)
    real = blocks >= 0
    first = blocks.masked_fill(~real, torch.iinfo(torch.int64).max // 2).amin(-1)
    return first, blocks.amax(-1), real.all(-1)


def _listed(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1, Q, K) bool to the (B, 1, Q) numbers of blocks of keys, and their (B, 1, Q, K) indices."""
    order = pairs.int().argsort(dim=-1, descending=True, stable=True)
    return pairs.sum(-1).int(), order.int()


def _seal(mask: Tensor, filler: Tensor) -> Tensor:
    """Mask the rows and columns of filler in a (B, H, n, n) mask, except for the diagonal."""
    closed, opened = (False, True) if mask.dtype == torch.bool else (torch.finfo(mask.dtype).min, 0)
    filler = filler[:, None]
    mask = mask.masked_fill(filler[..., None, :] | filler[..., :, None], closed)
    diagonal = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    return mask.masked_fill(filler[..., None] & diagonal, opened)
