"""Attention masks and index tables for sequences that became shorter, row by row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


def left_pad(rows: list[Tensor]) -> Tensor:
    """1-D int64 tensors of unequal length to (B, longest), filled on the left with -1."""
    longest = max(len(row) for row in rows)
    out = rows[0].new_full((len(rows), longest), -1)
    for row, target in zip(rows, out, strict=True):
        target[longest - len(row) :] = row
    return out


def compact_rows(stays: Tensor, columns: Tensor) -> Tensor:
    """Which tokens are left of rows of unequal length, with those of padding behind a row still behind it.

    Args:
        stays: (B, L) bool: the tokens that are left.
        columns: (B, L) int64: column of each token in the full prompt, -1 for padding and filler.

    Returns (B, n) int64 indices into L, -1 for filler: in front of the shorter rows, and in the place of
    padding that followed a row, so that the last logits stand where the plain model has them.
    """
    behind = (columns >= 0).int().flip(1).argmax(1).tolist()
    rows = [row.nonzero().flatten() for row in stays]
    return left_pad(
        [
            torch.nn.functional.pad(row, (0, n), value=-1) if n else row
            for row, n in zip(rows, behind, strict=True)
        ]
    )


def take_rows(tensor: Tensor, columns: Tensor) -> Tensor:
    """Rows of a (B or 1, L, ...) tensor at (B, n) columns to (B, n, ...); filler (-1) becomes zero.

    Zero, because whatever filler holds must not reach a sum as NaN, even with weight zero.
    """
    tensor = tensor.expand(len(columns), *tensor.shape[1:])
    batch = torch.arange(len(columns), device=tensor.device)[:, None]
    taken = tensor[batch, columns.clamp(min=0).to(tensor.device)]
    real = (columns >= 0).to(tensor.device)
    return taken.masked_fill(~real.reshape(*real.shape, *[1] * (taken.dim() - 2)), 0)


def take_positions(positions: Tensor, columns: Tensor) -> Tensor:
    """(B, L) or (axes, B, L) positions at (B, n) columns."""
    if positions.dim() == 2:
        return take_rows(positions, columns)
    return torch.stack([take_rows(axis, columns) for axis in positions])


def take(table: Tensor, columns: Tensor) -> Tensor:
    """(B, L) int table at (B, n) columns; filler stays -1."""
    return table.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, -1)


def among(columns: Tensor, length: int) -> Tensor:
    """(B, n) columns, -1 for filler, to (B, length) bool: which columns are there."""
    out = torch.zeros(len(columns), length + 1, dtype=torch.bool, device=columns.device)
    return out.scatter_(1, columns.where(columns >= 0, length), True)[:, :length]


def take_mask(mask: Tensor, columns: Tensor) -> Tensor:
    """A (B or 1, H or 1, L, L) prefill mask, boolean or additive, at (B, n) columns to (B, H or 1, n, n).

    Filler keys are hidden from every query but their own, so that no row of the softmax is empty.
    """
    index = columns.clamp(min=0).to(mask.device)
    filler = (columns < 0).to(mask.device)
    mask = mask.expand(len(columns), *mask.shape[1:])
    batch = torch.arange(len(columns), device=mask.device)[:, None, None]
    taken = mask[batch, :, index[:, :, None], index[:, None, :]].movedim(-1, 1)
    return _seal(taken, filler)


def causal_mask(real: Tensor, queries: int, dtype: torch.dtype, *, additive: bool) -> Tensor:
    """(B, k) key validity to the (B, 1, q, k) causal mask of the last ``queries`` positions.

    Boolean (True = may attend), or additive in ``dtype`` for eager attention. Invalid positions see
    themselves and nobody else sees them.
    """
    length = real.shape[1]
    keys = torch.arange(length, device=real.device)
    seen = keys <= keys[length - queries :, None]
    mask = (seen & real[:, None, :])[:, None]
    if queries > 1:
        mask = mask | (keys == keys[length - queries :, None])
    return as_additive(mask, dtype) if additive else mask


def as_additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask (True = may attend) of any shape as what eager attention adds, in ``dtype``."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def column_mask(
    keys: Tensor, queries: Tensor, window: int | None, dtype: torch.dtype, *, additive: bool
) -> Tensor:
    """The causal mask by columns of the full sequence: (B, k) and (B, q) int64 to (B, 1, q, k).

    Keys at -1 are seen by nobody; a query sees the columns up to its own, of those the last ``window`` if it
    is given. A query that sees nothing is filler or padding, and sees every key, so that its softmax is
    not empty. Boolean, or additive in ``dtype``.
    """
    near, far = keys[:, None, :], queries[:, :, None].to(keys.device)
    seen = (near <= far) & (near >= 0)
    if window is not None:
        seen &= near > far - window
    seen = (seen | ~seen.any(-1, keepdim=True))[:, None]
    return as_additive(seen, dtype) if additive else seen


def block_mask(keys: Tensor, queries: Tensor, window: int | None) -> BlockMask:
    """As :func:`column_mask`, for flex attention; a query that sees nothing gets zeros there."""
    batch, (count, held) = len(keys), (queries.shape[1], keys.shape[1])
    if window is None and bool((keys >= 0).all()):
        # Columns rise from key to key, and the queries are the last of them.
        before = held - count

        def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return k <= q + before
    else:
        reach = held + int(keys.max()) if window is None else window
        queries = queries.to(keys.device)

        def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            key, query = keys[b, k], queries[b, q]
            return (key >= 0) & (key <= query) & (key > query - reach)

    return create_block_mask(seen, B=batch, H=None, Q_LEN=count, KV_LEN=held, device=str(keys.device))


def _seal(mask: Tensor, filler: Tensor) -> Tensor:
    """Close filler rows and columns of a (B, H, n, n) mask except for the diagonal."""
    closed, opened = (False, True) if mask.dtype == torch.bool else (torch.finfo(mask.dtype).min, 0)
    filler = filler[:, None]
    mask = mask.masked_fill(filler[..., None, :] | filler[..., :, None], closed)
    diagonal = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    return mask.masked_fill(filler[..., None] & diagonal, opened)
