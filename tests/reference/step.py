"""One merge step and one attention layer, in the plainest form: lists, loops, one unit at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Plan:
    """Where to merge (encoder block or decoder layer -> kept share) and how."""

    encoder: dict[int, float] = field(default_factory=dict)
    llm: dict[int, float] = field(default_factory=dict)
    recycle: float = 0.05
    neighbours: int = 5
    reduce: str = "recycle"


def merge(units: list[Tensor], scores: list[float], keep: float, plan: Plan) -> list[int]:
    """Reduce one segment: overwrites what changes in ``units`` and returns the indices that stay."""
    n = len(units)
    p = max(1, round(keep * n))
    if p >= n:
        return list(range(n))
    order = sorted(range(n), key=lambda i: -scores[i])  # stable: equal scores stay in their order
    survivors = order[:p]
    if plan.reduce == "recycle":
        redundant = order[p:]
        count = min(p, max(1, round(plan.recycle * p)))
        for j in survivors[p - count :]:
            units[j] = _recycled(units[j], [units[i] for i in redundant], plan.neighbours)
    elif plan.reduce == "weighted":
        lowest = order[p - 1 :]
        total = len(lowest) * (len(lowest) + 1) / 2
        units[lowest[0]] = sum((rank + 1) / total * units[i] for rank, i in enumerate(lowest))
    else:
        assert plan.reduce == "drop"
    return sorted(survivors)


def _recycled(recycler: Tensor, redundant: list[Tensor], neighbours: int) -> Tensor:
    products = [float((recycler @ other).detach()) for other in redundant]
    nearest = sorted(range(len(redundant)), key=lambda i: -products[i])[:neighbours]
    scaled = [products[i] / math.sqrt(len(recycler)) for i in nearest]
    exponentials = [math.exp(s - max(scaled)) for s in scaled]
    carried = sum(e / sum(exponentials) * redundant[i] for e, i in zip(exponentials, nearest, strict=True))
    return (recycler + carried) / 2


def attention(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Softmax attention head by head; tensors are (tokens, heads, width), ``allowed`` (queries, keys).
    ``bias`` (keys,) is added to what every query makes of a key.

    Returns the heads' outputs side by side and each head's weights. A dead row looks at itself, only
    so that its softmax is defined: nobody looks at a dead row.
    """
    allowed = allowed | torch.eye(len(allowed), dtype=torch.bool)
    group = query.shape[1] // key.shape[1]
    outputs, weights = [], []
    for head in range(query.shape[1]):
        products = query[:, head] @ key[:, head // group].T / math.sqrt(query.shape[-1])
        if bias is not None:
            products = products + bias
        products[~allowed] = -math.inf
        exponentials = torch.exp(products - products.max(dim=1, keepdim=True).values)
        weights.append(exponentials / exponentials.sum(dim=1, keepdim=True))
        outputs.append(weights[-1] @ value[:, head // group])
    return torch.cat(outputs, dim=1), weights


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: ``states`` (tokens, heads, width), tables (tokens, width)."""
    half = states.shape[-1] // 2
    turned = torch.cat([-states[..., half:], states[..., :half]], dim=-1)
    return states * cos[:, None] + turned * sin[:, None]


def received(weights: list[Tensor], queries: list[int], token: int) -> float:
    """Attention a token receives, averaged over heads and the queries."""
    total = 0.0
    for head in weights:
        for query in queries:
            total += float(head[query, token].detach())
    return total / (len(weights) * len(queries))
