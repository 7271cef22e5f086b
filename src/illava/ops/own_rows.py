"""The log-sum-exp of each token's own query row, which flash attention returns as ``softmax_lse``."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision
from .scoring import _capped, _check_mask, _masked, _plus, _room


@full_precision
def own_row_scores(
    query: Tensor,
    key: Tensor,
    scaling: float,
    mask: Tensor | None = None,
    softcap: float | None = None,
    bias: Tensor | None = None,
    *,
    causal: bool,
) -> Tensor:
    """log(sum(exp(logits))) of each query row, averaged over heads.

    Args:
        query: (B, H, q, h), with rotary embeddings applied.
        key: (B, H_kv, k, h) with H a multiple of H_kv, cached keys first.
        scaling: factor on the dot products.
        mask: (B or 1, H or 1, q, k) boolean (True = may attend) or additive; or key padding, (B, k) boolean
            or 0/1, in addition to the causal mask; or None.
        softcap, bias: as in :func:`illava.ops.scoring.last_row_scores`.
        causal: whether, without a mask of all queries, row i of the queries attends to keys up to k - q + i
            only.

    Returns (B, q) fp32; -inf in a row whose keys are all masked. Raises ValueError for a mask of another
    kind.
    """
    if mask is not None and mask.dim() != 2:
        _check_mask(mask)
    batch, heads, rows, width = query.shape
    length, shared = key.shape[2], key.shape[1]
    keys = key.float().transpose(2, 3)
    step = max(1, _room(query) // (4 * batch * heads * length))
    columns = torch.arange(length, device=query.device)
    found = []
    for first in range(0, rows, step):
        part = query[:, :, first : first + step].float() * scaling
        logits = (part.reshape(batch, shared, -1, width) @ keys).view(batch, heads, -1, length)
        logits = _plus(_capped(logits, softcap), None if bias is None else bias[:, None, None])
        if mask is not None and mask.dim() == 4:
            logits = _masked(logits, mask[:, :, first : first + step, :length])
        else:
            at = torch.arange(first, first + part.shape[2], device=query.device)[:, None]
            if causal:
                logits = logits.masked_fill(columns > at + length - rows, float("-inf"))
            if mask is not None:
                logits = logits.masked_fill(~mask.bool()[:, None, None], float("-inf"))
        found.append(logits.logsumexp(-1).mean(1))
    return torch.cat(found, 1)
