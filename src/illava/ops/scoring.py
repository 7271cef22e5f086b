"""Scores of visual tokens, above all the attention they receive.

Pure tensor functions on the queries and keys that an attention layer has already computed. They never hold a
whole attention matrix, and do not change the output of attention. All arithmetic is fp32, also under autocast
and TF32.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from . import kernels
from .masks import places_of
from .precision import full_precision

Score = Literal["exact", "sampled"]
SCORES: tuple[str, ...] = get_args(Score)

SAMPLED_ROWS = 256
CHUNK_BYTES = 2**20
"""Maximum size of one chunk of attention weights in :func:`column_scores` on a CPU, to fit its caches."""
ACCELERATOR_CHUNK_BYTES = 256 * 2**20
"""The same on an accelerator, where a few large products are faster than many small ones."""


@full_precision
def column_scores(
    query: Tensor,
    key: Tensor,
    scaling: float,
    *,
    score: Score = "exact",
    times: float = 1,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention that each token receives, averaged over heads and over the queries of its segment.

    Args:
        query: (B, H, n, h), with rotary embeddings applied.
        key: (B, H_kv, n, h) with H a multiple of H_kv (grouped key/value heads).
        scaling: factor on the dot products, usually h ** -0.5.
        score: ``"exact"`` uses every query row, ``"sampled"`` 256 evenly spaced ones, or all if there are
            fewer.
        times: factor on the scores.
        bias: (B, n) fp32 added to the logits of each key, such as the logarithms of sizes; None: nothing.

    Returns (B, n) fp32; each row sums to ``times``.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    batch, heads, n, width = query.shape
    count = min(n, SAMPLED_ROWS) if score == "sampled" else n
    if kernels.suits_attention(query, key):
        from .kernels.attention import column_sums

        return column_sums(query, key, scaling, count, times / (heads * count), bias)
    if count < n:
        # Integer arithmetic: a float linspace would follow the default dtype.
        query = query[:, :, torch.arange(0, count * n, n, device=query.device) // count]
    # One matrix product per batch entry and key/value head, over all query rows that share its keys.
    rows, keys = query.float().reshape(batch * key.shape[1], -1, width), key.float().flatten(0, 1)
    added = None if bias is None else bias.float().repeat_interleave(key.shape[1], 0)[:, None]
    room = _room(query)
    some = max(1, room // (4 * rows.shape[1] * n))
    step = max(1, room // (4 * min(some, len(rows)) * n))
    sums = []
    for head in range(0, len(rows), some):
        queries, transposed = rows[head : head + some], keys[head : head + some].transpose(1, 2)
        more = None if added is None else added[head : head + some]
        first, *others = torch.split(queries, step, dim=1)
        total = _column_sums(_plus((first * scaling).matmul(transposed), more).softmax(-1))
        for chunk in others:
            total += _column_sums(_plus((chunk * scaling).matmul(transposed), more).softmax(-1))
        sums.append(total)
    total = torch.cat(sums) if len(sums) > 1 else sums[0]
    total = total.reshape(batch, -1, n).sum(1)
    return total * (times / (heads * count))


def _plus(logits: Tensor, bias: Tensor | None) -> Tensor:
    """Logits with a bias, which must broadcast to them; overwrites ``logits``."""
    return logits if bias is None else logits.add_(bias)


def _on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _room(query: Tensor) -> int:
    """Bytes of attention weights to compute at once."""
    return CHUNK_BYTES if _on_host(query) else ACCELERATOR_CHUNK_BYTES


def _column_sums(weights: Tensor) -> Tensor:
    """(S, r, n) to (S, n)."""
    if not _on_host(weights):
        return weights.sum(1)
    # Multiplying by a row of ones is faster than sum().
    return weights.new_ones(len(weights), 1, weights.shape[1]).bmm(weights)[:, 0]


@full_precision
def last_row_scores(
    query: Tensor,
    key: Tensor,
    scaling: float,
    last: Tensor,
    mask: Tensor | None = None,
    softcap: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention weight of every key in one query row of each sequence, averaged over heads.

    Args:
        query: (B, H, q, h), with rotary embeddings applied.
        key: (B, H_kv, k, h) with H a multiple of H_kv, cached keys first.
        scaling: factor on the dot products.
        last: (B,) int64, the query row to use: the last prompt token.
        mask: None for a causal mask over the last q keys; or the mask of the attention layer,
            (B or 1, H or 1, q, k) boolean (True = may attend) or additive; or key padding, (B, k) boolean
            or 0/1, in addition to the causal mask.
        softcap: bound c on the scaled dot products z, which become c tanh(z / c) as in Gemma 2, or None.
        bias: (B, k) fp32 added to the logits of each key, after the bound; None: nothing.

    Returns (B, k) fp32; each row sums to 1. Raises ValueError for a mask of another kind.
    """
    if mask is not None and mask.dim() != 2:
        _check_mask(mask)
    if kernels.suits_attention(query, key):
        from .kernels.attention import row_weights

        return row_weights(query, key, scaling, last, mask, softcap, bias).mean(1)
    batch, heads, rows, width = query.shape
    length = key.shape[2]
    rows_used = query.gather(2, last[:, None, None, None].expand(-1, heads, 1, width)).float()
    grouped = rows_used.reshape(batch, key.shape[1], heads // key.shape[1], width)
    logits = (grouped * scaling).matmul(key.float().transpose(2, 3)).reshape(batch, heads, length)
    logits = _plus(_capped(logits, softcap), None if bias is None else bias[:, None])
    if mask is None or mask.dim() == 2:
        unseen = torch.arange(rows - length, rows, device=query.device) > last[:, None]
        if mask is not None:
            unseen = unseen | ~mask.bool()
        logits = logits.masked_fill(unseen[:, None], float("-inf"))
    else:
        mask = mask.expand(batch, *mask.shape[1:])
        row = mask[torch.arange(batch, device=mask.device), :, last][..., :length]
        logits = _masked(logits, row)
    return logits.softmax(-1).mean(1)


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else (logits / softcap).tanh() * softcap


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits with a boolean mask (True = may attend) or an additive one."""
    return logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask.float()


def _check_mask(mask: Tensor) -> None:
    if mask.dim() != 4 or not (mask.dtype == torch.bool or mask.is_floating_point()):
        raise ValueError(
            f"mask must be (B, k), or (B, H, q, k) boolean or additive, got {tuple(mask.shape)} {mask.dtype}"
        )


@full_precision
def row_scores(
    query: Tensor,
    key: Tensor,
    scaling: float,
    rows: Tensor,
    mask: Tensor | None = None,
    softcap: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention weight of every key, averaged over heads and over chosen query rows of each sequence.

    Args:
        rows: (B, q) bool, the query rows to use.
        query, key, scaling, mask, softcap, bias: as for :func:`last_row_scores`.

    Returns (B, k) fp32; each row sums to 1, or is zero if no query row is chosen. Waits once for the device,
    for the numbers of chosen rows. Raises ValueError as :func:`last_row_scores`.
    """
    batch, heads, _, width = query.shape
    length, rows = key.shape[2], rows.to(query.device)
    total = torch.zeros(batch, length, device=query.device, dtype=torch.float32)
    keys = key.float().transpose(2, 3)
    for number, count in enumerate(rows.sum(1).tolist()):
        if not count:
            continue
        # Never more than fit in memory at a time.
        step = max(1, _room(query) // (4 * heads * length))
        for at in torch.split(places_of(rows[number], count), step):
            chosen = query[number].index_select(1, at).float() * scaling
            logits = chosen.reshape(key.shape[1], -1, width) @ keys[number]
            logits = logits.view(heads, len(at), length)
            logits = _plus(_capped(logits, softcap), None if bias is None else bias[number])
            if mask is None or mask.dim() == 2:
                unseen = torch.arange(rows.shape[1] - length, rows.shape[1], device=at.device) > at[:, None]
                if mask is not None:
                    unseen = unseen | ~mask[number].bool()
                logits = logits.masked_fill(unseen, float("-inf"))
            else:
                _check_mask(mask)
                given = mask[number % len(mask)].index_select(1, at)[..., :length]
                logits = _masked(logits, given)
            total[number] += logits.softmax(-1).sum((0, 1)) / (heads * count)
    return total


@full_precision
def rarity(units: Tensor) -> Tensor:
    """One minus the mean cosine similarity of each unit to all units of its segment, itself included.

    The cost is linear in n, since the mean of the similarities is the similarity to the mean.

    Args:
        units: (S, n, D), any floating dtype.

    Returns (S, n) fp32 in [0, 2].
    """
    directions = torch.nn.functional.normalize(units.detach().float(), dim=-1)
    return 1 - (directions @ directions.mean(1).unsqueeze(-1)).squeeze(-1)


@full_precision
def unit_scores(scores: Tensor, tokens: int) -> Tensor:
    """Scores of units of ``tokens`` tokens, as means over the tokens: (..., n * tokens) to (..., n)."""
    return scores.reshape(*scores.shape[:-1], -1, tokens).mean(-1) if tokens > 1 else scores
