"""Attention that tokens receive, without holding a matrix of attention weights.

``column_sums`` reads the keys twice: once for the log-sum-exp of each query row, once for the sums over rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import HALF, block, interpreted, on_device

ROWS, COLUMNS = 64, 64
"""Query rows and keys of one tile."""


@triton.jit
def _load(pointer, rows, row_stride, row_mask, columns, column_stride, width, UPCAST: tl.constexpr):
    """(rows, columns) of a matrix, zero where masked."""
    values = tl.load(
        pointer + rows.to(tl.int64)[:, None] * row_stride + columns[None, :] * column_stride,
        mask=row_mask[:, None] & (columns < width)[None, :],
        other=0.0,
    )
    return values.to(tl.float32) if UPCAST else values


@triton.jit
def _of_keys(bias, batch, batch_stride, at, stride, n):
    """The bias of some keys of a sequence, zero where there are none."""
    added = tl.load(bias + batch.to(tl.int64) * batch_stride + at * stride, mask=at < n, other=0.0)
    return added.to(tl.float32)


@triton.jit
def _base(pointer, ALIGNED: tl.constexpr):
    """The pointer, with the hint that it is a multiple of 16 bytes: wide loads for heads of 72."""
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit(do_not_specialize=["n", "rows", "b_batch"])
def _log_sum_exp(
    query, key, bias, out, scaling, heads, group, n, rows,
    q_batch, q_head, q_row, q_column, k_batch, k_head, k_row, k_column, b_batch, b_column,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr, UPCAST: tl.constexpr,
    width: tl.constexpr, ALIGNED: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """One block of query rows of one head: log(sum(exp(scaling * q k + bias)))."""
    batch, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    number = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_H)
    # Row i of the sample is row i * n // rows of all.
    q = _load(
        _base(query + batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head, ALIGNED),
        number.to(tl.int64) * n // rows, q_row, number < rows, columns, q_column, width, UPCAST,
    )  # fmt: skip
    keys = _base(key + batch.to(tl.int64) * k_batch + (head // group).to(tl.int64) * k_head, ALIGNED)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, n, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        k = _load(keys, at, k_row, at < n, columns, k_column, width, UPCAST)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
        if BIAS:
            logits += _of_keys(bias, batch, b_batch, at, b_column, n)[None, :]
        logits = tl.where((at < n)[None, :], logits, float("-inf"))
        above = tl.maximum(highest, tl.max(logits, 1))
        total = total * tl.exp(highest - above) + tl.sum(tl.exp(logits - above[:, None]), 1)
        highest = above
    tl.store(out + tl.program_id(0).to(tl.int64) * rows + number, highest + tl.log(total), mask=number < rows)


@triton.jit(do_not_specialize=["n", "rows", "b_batch"])
def _sums(
    query, key, bias, log_sums, out, scaling, factor, heads, group, n, rows,
    q_batch, q_head, q_row, q_column, k_batch, k_head, k_row, k_column, b_batch, b_column,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr, UPCAST: tl.constexpr,
    width: tl.constexpr, ALIGNED: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """One block of keys of one head: the sum of attention weights over the query rows, times ``factor``."""
    batch, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    at, columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_H)
    k = _load(
        _base(key + batch.to(tl.int64) * k_batch + (head // group).to(tl.int64) * k_head, ALIGNED),
        at, k_row, at < n, columns, k_column, width, UPCAST,
    )  # fmt: skip
    queries = _base(query + batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head, ALIGNED)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, rows, BLOCK_M):
        number = start + tl.arange(0, BLOCK_M)
        q = _load(
            queries, number.to(tl.int64) * n // rows, q_row, number < rows, columns, q_column, width, UPCAST
        )
        log_sum = tl.load(
            log_sums + tl.program_id(0).to(tl.int64) * rows + number, mask=number < rows, other=float("inf")
        )
        logits = tl.dot(k, tl.trans(q), input_precision="ieee") * scaling
        if BIAS:
            logits += _of_keys(bias, batch, b_batch, at, b_column, n)[:, None]
        total += tl.sum(tl.exp(logits - log_sum[None, :]), 1)
    tl.store(out + tl.program_id(0).to(tl.int64) * n + at, total * factor, mask=at < n)


def _aligned(tensor: Tensor) -> bool:
    """Whether every row of every head starts at a multiple of 16 bytes."""
    steps = (tensor.data_ptr(), *(stride * tensor.element_size() for stride in tensor.stride()[:3]))
    return all(step % 16 == 0 for step in steps)


def column_sums(
    query: Tensor, key: Tensor, scaling: float, rows: int, factor: float, bias: Tensor | None = None
) -> Tensor:
    """Attention that each token receives, summed over heads and over evenly spaced query rows.

    Args:
        query: (B, H, n, h), any floating dtype.
        key: (B, H_kv, n, h).
        scaling: factor on the dot products.
        rows: number of query rows, the i-th of them row i * n // rows.
        factor: on the sums.
        bias: (B, n) fp32 added to the logits of each key.

    Returns (B, n) fp32.
    """
    batch, heads, n, width = query.shape
    log_sums = torch.empty(batch * heads, rows, dtype=torch.float32, device=query.device)
    out = torch.empty(batch, heads, n, dtype=torch.float32, device=query.device)
    shared = (heads, heads // key.shape[1], n, rows, *query.stride(), *key.stride())
    shared += (0, 0) if bias is None else bias.stride()
    added = log_sums if bias is None else bias
    options = {
        "BLOCK_M": ROWS,
        "BLOCK_N": COLUMNS,
        "BLOCK_H": block(width),
        "UPCAST": interpreted() or query.dtype != key.dtype or query.dtype not in HALF,
        "width": width,
        "ALIGNED": _aligned(query) and _aligned(key),
        "BIAS": bias is not None,
    }
    with on_device(query):
        _log_sum_exp[(batch * heads, triton.cdiv(rows, ROWS))](
            query, key, added, log_sums, scaling, *shared, **options
        )
        _sums[(batch * heads, triton.cdiv(n, COLUMNS))](
            query, key, added, log_sums, out, scaling, factor, *shared, **options
        )
    return out.sum(1)


@triton.jit(do_not_specialize=["queries", "keys", "m_batch", "m_head", "m_row", "b_batch"])
def _one_row(
    query, key, last, mask, bias, out, scaling, softcap, heads, group, queries, keys, width,
    q_batch, q_head, q_row, q_column, k_batch, k_head, k_row, k_column, m_batch, m_head, m_row, m_column,
    b_batch, b_column,
    KIND: tl.constexpr, SOFTCAP: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The attention weights of one query row of one head."""
    batch, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    columns = tl.arange(0, BLOCK_H)
    row = tl.load(last + batch)
    q = tl.load(
        query + batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head + row * q_row + columns * q_column,
        mask=columns < width, other=0.0,
    ).to(tl.float32) * scaling  # fmt: skip
    start_of_keys = key + batch.to(tl.int64) * k_batch + (head // group).to(tl.int64) * k_head
    weights = out + tl.program_id(0).to(tl.int64) * keys
    highest = float("-inf")
    for start in range(0, keys, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        inside = at < keys
        k = _load(start_of_keys, at, k_row, inside, columns, k_column, width, True)
        logits = tl.sum(k * q[None, :], 1)
        if SOFTCAP:
            # c tanh(z / c), as a logistic function.
            logits = softcap * (2.0 / (1.0 + tl.exp(-2.0 * logits / softcap)) - 1.0)
        if BIAS:
            logits += _of_keys(bias, batch, b_batch, at, b_column, keys)
        if KIND < 2:
            seen = inside & (at <= row + (keys - queries))
            if KIND == 1:
                seen = seen & (tl.load(mask + batch * m_batch + at * m_column, mask=inside, other=0) != 0)
            logits = tl.where(seen, logits, float("-inf"))
        else:
            given = tl.load(
                mask + batch.to(tl.int64) * m_batch + head * m_head + row * m_row + at * m_column,
                mask=inside, other=0,
            )  # fmt: skip
            if KIND == 2:
                logits = tl.where(inside & (given != 0), logits, float("-inf"))
            else:
                logits = tl.where(inside, logits + given.to(tl.float32), float("-inf"))
        tl.store(weights + at, logits, mask=inside)
        highest = tl.maximum(highest, tl.max(logits, 0))
    # The same program reads what it has written.
    tl.debug_barrier()
    total = 0.0
    for start in range(0, keys, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        total += tl.sum(tl.exp(tl.load(weights + at, mask=at < keys, other=float("-inf")) - highest), 0)
    tl.debug_barrier()
    for start in range(0, keys, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        logits = tl.load(weights + at, mask=at < keys, other=float("-inf"))
        tl.store(weights + at, tl.exp(logits - highest) / total, mask=at < keys)


def row_weights(
    query: Tensor,
    key: Tensor,
    scaling: float,
    last: Tensor,
    mask: Tensor | None,
    softcap: float | None,
    bias: Tensor | None = None,
) -> Tensor:
    """The weights of one query row of each sequence, (B, H, k) fp32. Arguments as in ``last_row_scores``."""
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    strides: tuple[int, ...] = (0, 0, 0, 0)
    if mask is None:
        kind, given = 0, last
    elif mask.dim() == 2:
        kind, given, strides = 1, mask, (mask.stride(0), 0, 0, mask.stride(1))
    else:
        given = mask.expand(batch, heads, *mask.shape[2:])
        kind, strides = (2 if mask.dtype == torch.bool else 3), given.stride()
    if given.dtype == torch.bool:
        given = given.view(torch.uint8)
    last = last.contiguous()
    out = torch.empty(batch, heads, keys, dtype=torch.float32, device=query.device)
    with on_device(query):
        _one_row[(batch * heads,)](
            query, key, last, given, last if bias is None else bias, out, scaling, softcap or 1.0, heads,
            heads // key.shape[1], queries, keys, width, *query.stride(), *key.stride(), *strides,
            *((0, 0) if bias is None else bias.stride()),
            KIND=kind, SOFTCAP=softcap is not None, BIAS=bias is not None, BLOCK_N=128, BLOCK_H=block(width),
        )  # fmt: skip
    return out
