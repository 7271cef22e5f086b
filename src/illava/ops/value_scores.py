"""Scores of visual tokens by value vectors (IVC-Prune, arXiv 2602.03060)."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision
from .scoring import _room

SEEDS = 0.01
"""Share of the visual tokens of a prompt whose value vectors are the second queries, at least one."""


@full_precision
def value_scores(value: Tensor, text: Tensor, visual: Tensor) -> Tensor:
    """The similarity of the value vectors of visual tokens to those of the text, and of tokens most like it.

    A row's weights are softmax(<v_row, v_j> / sqrt(h)) over the visual tokens j of the prompt. The score is
    the mean of two averages over heads: that of the rows of the text, and that of the rows of seeds. Seeds
    are the 1 % of visual tokens with the highest weights in the rows of the text.

    Args:
        value: (B, H_kv, n, h), any floating dtype.
        text: (B, n) bool, the tokens of the text.
        visual: (B, n) bool, the visual tokens.

    Returns (B, n) fp32, 0 for other than visual tokens. Does not wait for the device.
    """
    values = value.float()
    scores = _mean_weights(values, values, text, visual)
    # The host knows how many there are at most.
    most = max(1, round(SEEDS * visual.shape[1]))
    order = scores.masked_fill(~visual, -1).argsort(dim=1, descending=True, stable=True)[:, :most]
    count = (SEEDS * visual.sum(1, keepdim=True)).round().clamp(min=1)
    chosen = (torch.arange(most, device=value.device) < count) & visual.gather(1, order)
    index = order[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    return (scores + _mean_weights(values.gather(2, index), values, chosen, visual)) / 2


def _mean_weights(rows: Tensor, values: Tensor, chosen: Tensor, visual: Tensor) -> Tensor:
    """(B, n) mean over heads and over the rows that ``chosen`` of (B, H, q, h), of their weights."""
    batch, heads, count, width = rows.shape
    hidden = ~visual[:, None, None]
    keys = values.transpose(2, 3)
    step = max(1, _room(rows) // (4 * batch * heads * values.shape[2]))
    total = torch.zeros(visual.shape, dtype=torch.float32, device=rows.device)
    for first in range(0, count, step):
        part = slice(first, first + step)
        logits = (rows[:, :, part] @ keys) * width**-0.5
        # Not -inf: a prompt of a batch may have no picture.
        weights = logits.masked_fill(hidden, torch.finfo(logits.dtype).min).softmax(-1).sum(1)
        total += (weights * chosen[:, part, None]).sum(1)
    return total.masked_fill(~visual, 0) / (heads * chosen.sum(1, keepdim=True).clamp(min=1))


def anchors(rotary: Tensor, share: float) -> Tensor:
    """The tokens at the positions with the largest mean cosine, and with the largest mean sine.

    Args:
        rotary: (S, n, 2) fp32, the mean cosine and sine of each token's rotary table.
        share: of n, the number of tokens for each of the two, at least one. Of equal ones the first.

    Returns (S, n) bool.
    """
    n = rotary.shape[1]
    best = rotary.argsort(dim=1, descending=True, stable=True)[:, : max(1, round(share * n))]
    chosen = torch.zeros(rotary.shape[:2], dtype=torch.bool, device=rotary.device)
    return chosen.scatter(1, best.flatten(1), True)
