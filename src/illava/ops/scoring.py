"""Scores of visual tokens, above all the attention they receive.

Pure tensor functions on the queries and keys that an attention layer has already computed. They never hold a
whole attention matrix, and do not change the output of attention. All arithmetic is fp32, also under autocast
and TF32.
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
"""Maximum size of one chunk of attention weights in :func:`column_scores` on a CPU, to fit its caches."""
ACCELERATOR_CHUNK_BYTES = 256 * 2**20
"""The same on an accelerator, where a few large products are faster than many small ones."""

MAX_PAIRWISE_UNITS = 4096
"""Largest segment for which :func:`diverse_ranking` holds the distances of all pairs in memory."""


@full_precision
def column_scores(query: Tensor, key: Tensor, scaling: float, *, score: Score = "exact") -> Tensor:
    """Attention that each token receives, averaged over heads and over the queries of its segment.

    Args:
        query: (B, H, n, h), with rotary embeddings applied.
        key: (B, H_kv, n, h) with H a multiple of H_kv (grouped key/value heads).
        scaling: factor on the dot products, usually h ** -0.5.
        score: ``"exact"`` uses every query row, ``"sampled"`` 256 evenly spaced ones, or all if there are
            fewer.

    Returns (B, n) fp32; each row sums to 1.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    batch, heads, n, width = query.shape
    if score == "sampled" and n > SAMPLED_ROWS:
        # Integer arithmetic: a float linspace would follow the default dtype.
        rows = torch.arange(SAMPLED_ROWS, device=query.device) * n // SAMPLED_ROWS
        query = query[:, :, rows]
    # One matrix product per batch entry and key/value head, over all query rows that share its keys.
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
            # Multiplying by a row of ones sums columns faster than sum() does.
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

    Returns (B, k) fp32; each row sums to 1.
    """
    batch, heads, rows, width = query.shape
    length = key.shape[2]
    rows_used = query[torch.arange(batch, device=query.device), :, last].float()
    grouped = rows_used.reshape(batch, key.shape[1], heads // key.shape[1], width)
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
    """Attention weight of every key, averaged over heads and over chosen query rows of each sequence.

    Args:
        rows: (B, q) bool, the query rows to use.
        query, key, scaling, mask, softcap: as for :func:`last_row_scores`.

    Returns (B, k) fp32; each row sums to 1, or is zero if no query row is chosen.
    """
    total = torch.zeros(len(query), key.shape[2], device=query.device, dtype=torch.float32)
    for number, chosen in enumerate(rows):
        indices = chosen.nonzero().flatten().to(query.device)
        if not len(indices):
            continue
        one = slice(number, number + 1)
        part = mask if mask is None or len(mask) == 1 else mask[one]
        for index in indices:
            scores = last_row_scores(query[one], key[one], scaling, index[None], part, softcap)
            total[number] += scores[0] / len(indices)
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
def diverse_ranking(units: Tensor, scores: Tensor, p: int) -> Tensor:
    """Rank units by max-min diversity.

    Selects the highest-scored unit first, then repeatedly the unit farthest from those selected. The distance
    of a unit is the cosine distance to the nearest selected unit, times the score of the unit. Of equally
    distant units the earlier one is selected. Takes p steps of O(n).

    Args:
        units: (S, n, D), any floating dtype.
        scores: (S, n) fp32, not negative.
        p: number of units to rank, 1 <= p <= n.

    Returns (S, n) fp32: n for the first unit, n - 1 for the second, and so on; 0 for the others.
    """
    directions = torch.nn.functional.normalize(units.detach().float(), dim=-1)
    count = units.shape[1]
    rank = torch.zeros_like(scores, dtype=torch.float32)
    newest = scores.argmax(1, keepdim=True)
    nearest = torch.full_like(rank, float("inf"))
    # If they fit, all distances at once are one large product instead of many small ones.
    whole = count <= MAX_PAIRWISE_UNITS
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
    """Scores of units of ``tokens`` tokens, as means over the tokens: (..., n * tokens) to (..., n)."""
    return scores.reshape(*scores.shape[:-1], -1, tokens).mean(-1) if tokens > 1 else scores
