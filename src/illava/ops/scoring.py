"""How much a token is worth keeping: the attention it receives, computed beside the user's own kernel.

Pure tensor functions on the queries and keys that an attention layer already has. No attention matrix
is ever held whole, and the attention output is not touched. All arithmetic is fp32, under autocast and
TF32 too.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .precision import full_precision

Score = Literal["exact", "sampled"]
SCORES: tuple[str, ...] = get_args(Score)

SAMPLED_ROWS = 256
CHUNK_BYTES = 2**20
"""Most memory one chunk of attention weights takes in :func:`column_scores` on a CPU: fits its caches."""
ACCELERATOR_CHUNK_BYTES = 256 * 2**20
"""Likewise on a GPU, where few large products beat many small ones."""

MOST_PAIRED = 4096
"""Units of a segment up to which :func:`diverse_ranking` holds the distances of all pairs."""


@full_precision
def column_scores(query: Tensor, key: Tensor, scaling: float, *, score: Score = "exact") -> Tensor:
    """Attention each token receives, averaged over heads and over all queries of its segment.

    Args:
        query: (B, H, n, h), rotary already applied.
        key: (B, H_kv, n, h) with H a multiple of H_kv (grouped key/value heads).
        scaling: factor on the dot products, usually h ** -0.5.
        score: ``"exact"`` uses every query row, ``"sampled"`` 256 evenly spaced ones (all of them when
            there are no more than that).

    Returns (B, n) fp32; each row sums to 1.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    batch, heads, n, width = query.shape
    if score == "sampled" and n > SAMPLED_ROWS:
        # Integer arithmetic: a float linspace would follow the default dtype.
        rows = torch.arange(SAMPLED_ROWS, device=query.device) * n // SAMPLED_ROWS
        query = query[:, :, rows]
    # One matrix product a batch entry and key/value head: all query rows that share its keys.
    rows, keys = query.float().reshape(batch * key.shape[1], -1, width), key.float().flatten(0, 1)
    room = CHUNK_BYTES if query.device.type == "cpu" else ACCELERATOR_CHUNK_BYTES
    some = max(1, room // (4 * rows.shape[1] * n))
    step = max(1, room // (4 * min(some, len(rows)) * n))
    total = torch.zeros(len(rows), n, device=query.device, dtype=torch.float32)
    for head in range(0, len(rows), some):
        heads_here = slice(head, head + some)
        for start in range(0, rows.shape[1], step):
            chunk = rows[heads_here, start : start + step] * scaling
            weights = chunk.matmul(keys[heads_here].transpose(1, 2)).softmax(-1)
            # A product with ones sums columns faster than sum() does.
            total[heads_here] += weights.new_ones(len(weights), 1, weights.shape[1]).bmm(weights)[:, 0]
    return total.reshape(batch, -1, n).sum(1) / (heads * query.shape[2])


@full_precision
def last_row_scores(
    query: Tensor,
    key: Tensor,
    scaling: float,
    last: Tensor,
    mask: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Softmax weight of every key in one query row of each sequence, averaged over heads.

    Args:
        query: (B, H, q, h), rotary already applied.
        key: (B, H_kv, k, h) with H a multiple of H_kv, cached keys first.
        scaling: factor on the dot products.
        last: (B,) int64, the query row that asks: the last prompt token.
        mask: None for a plain causal mask over the last q keys; or what the attention layer got:
            (B or 1, H or 1, q, k) boolean (True = may attend) or additive; or (B, k) boolean or 0/1 key
            padding, on top of the causal mask.
        softcap: bound c on the scaled dot products z, which become c tanh(z / c) (Gemma 2), or None.

    Returns (B, k) fp32; each row sums to 1.
    """
    batch, heads, rows, width = query.shape
    length = key.shape[2]
    asking = query[torch.arange(batch, device=query.device), :, last].float()
    grouped = asking.reshape(batch, key.shape[1], heads // key.shape[1], width)
    logits = (grouped * scaling).matmul(key.float().transpose(2, 3)).reshape(batch, heads, length)
    if softcap is not None:
        logits = (logits / softcap).tanh() * softcap
    if mask is None or mask.dim() == 2:
        seen = torch.arange(length, device=query.device) <= (last + length - rows)[:, None]
        if mask is not None:
            seen = seen & mask.bool()
        logits = logits.masked_fill(~seen[:, None], float("-inf"))
    elif mask.dim() != 4 or not (mask.dtype == torch.bool or mask.is_floating_point()):
        raise ValueError(
            f"mask must be (B, k), or (B, H, q, k) boolean or additive, got {tuple(mask.shape)} {mask.dtype}"
        )
    else:
        mask = mask.expand(batch, *mask.shape[1:])
        row = mask[torch.arange(batch, device=mask.device), :, last][..., :length]
        if row.dtype == torch.bool:
            row = torch.zeros_like(row, dtype=torch.float32).masked_fill(~row, float("-inf"))
        logits = logits + row.float()
    return logits.softmax(-1).mean(1)


@full_precision
def row_scores(
    query: Tensor,
    key: Tensor,
    scaling: float,
    rows: Tensor,
    mask: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Softmax weight of every key, averaged over heads and over some query rows of each sequence.

    Args:
        rows: (B, q) bool, the query rows that ask.
        query, key, scaling, mask, softcap: as for :func:`last_row_scores`.

    Returns (B, k) fp32; each row sums to 1, or is zero where no row asks.
    """
    total = torch.zeros(len(query), key.shape[2], device=query.device, dtype=torch.float32)
    for number, asking in enumerate(rows):
        asks = asking.nonzero().flatten().to(query.device)
        if not len(asks):
            continue
        one = slice(number, number + 1)
        part = mask if mask is None or len(mask) == 1 else mask[one]
        for place in asks:
            scores = last_row_scores(query[one], key[one], scaling, place[None], part, softcap)
            total[number] += scores[0] / len(asks)
    return total


@full_precision
def rarity(units: Tensor) -> Tensor:
    """One minus the mean cosine similarity of each unit to all units of its segment, itself included.

    (S, n, D), any floating dtype, to (S, n) fp32 in [0, 2]. Linear in n: the mean of similarities is the
    similarity to the mean.
    """
    directions = torch.nn.functional.normalize(units.detach().float(), dim=-1)
    return 1 - (directions @ directions.mean(1).unsqueeze(-1)).squeeze(-1)


@full_precision
def diverse_ranking(units: Tensor, scores: Tensor, p: int) -> Tensor:
    """Rank units by max-min diversity: the highest-scored, then ever the one farthest from those before.

    Far is the cosine distance to the nearest unit taken so far times the unit's score. O(p n), p steps.

    Args:
        units: (S, n, D), any floating dtype.
        scores: (S, n) fp32, not negative.
        p: how many are ranked, 1 <= p <= n.

    Returns (S, n) fp32: n for the first, n - 1 for the second, and so on; 0 for those behind the p-th. Of
    equally far units the earlier is taken.
    """
    directions = torch.nn.functional.normalize(units.detach().float(), dim=-1)
    count = units.shape[1]
    rank = torch.zeros_like(scores, dtype=torch.float32)
    newest = scores.argmax(1, keepdim=True)
    nearest = torch.full_like(rank, float("inf"))
    # All distances at once are one large product instead of many small ones, where they fit.
    whole = count <= MOST_PAIRED
    distances = (1 - directions @ directions.transpose(1, 2)).clamp_(min=0) if whole else None
    for step in range(p):
        rank.scatter_(1, newest, float(count - step))
        if distances is not None:
            distance = distances.gather(1, newest[..., None].expand(-1, -1, count)).squeeze(1)
        else:
            one = directions.gather(1, newest[..., None].expand(-1, -1, units.shape[-1]))
            distance = (1 - (directions @ one.transpose(1, 2)).squeeze(-1)).clamp(min=0)
        nearest = torch.minimum(nearest, distance)
        newest = (nearest * scores).masked_fill(rank > 0, -1).argmax(1, keepdim=True)
    return rank


@full_precision
def unit_scores(scores: Tensor, tokens: int) -> Tensor:
    """Scores of units made of ``tokens`` consecutive tokens each: (..., n * tokens) to (..., n), the mean."""
    return scores.reshape(*scores.shape[:-1], -1, tokens).mean(-1) if tokens > 1 else scores
