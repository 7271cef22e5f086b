"""The methods behind the encoder written out as loops over Python floats: what the tests compare with.

Each takes one segment: units (n, D), scores (n,), keys (n, w) and the number p of survivors, p < n. Each
returns the survivors (p, D) float64, their indices, and which of those changed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.core.loops import dot, ranked, round_half_even

Outcome = tuple[Tensor, list[int], set[int]]


def cosine(a: list[float], b: list[float]) -> float:
    length = math.sqrt(dot(a, a)) * math.sqrt(dot(b, b))
    return dot(a, b) / length if length else 0.0


def at_a_stride(indices: list[int], count: int) -> list[int]:
    if not count:
        return []
    stride = len(indices) // count
    return [indices[i * stride] for i in range(count)]


def at_least_one(share: float, of: int) -> int:
    return min(of, max(1, round_half_even(share * of)))


def _outcome(x: list[list[float]], kept: list[int], new: dict[int, list[float]]) -> Outcome:
    rows = [new.get(i, x[i]) for i in sorted(kept)]
    return torch.tensor(rows, dtype=torch.float64), sorted(kept), set(new)


def fastervlm_loop(units: Tensor, scores: Tensor, keys: Tensor, p: int) -> Outcome:
    return _outcome(units.tolist(), ranked(scores)[:p], {})


def visionzip_loop(
    units: Tensor, scores: Tensor, keys: Tensor, p: int, contextual: float = 10 / 64, reduce: str = "sum"
) -> Outcome:
    x, k = units.tolist(), keys.tolist()
    count = 0
    if p > 1:
        count = min(p - 1, max(1, round_half_even(contextual * p)))
    dominant = ranked(scores)[: p - count]
    rest = [i for i in range(len(x)) if i not in dominant]
    targets = at_a_stride(rest, count)
    went: dict[int, list[int]] = {target: [] for target in targets}
    for i in rest:
        if targets and i not in targets:
            # Of equally similar targets the first.
            went[max(targets, key=lambda target: cosine(k[i], k[target]))].append(i)
    new = {}
    for target, members in went.items():
        if members:
            half = 0.5 if reduce == "mean" else 1.0
            new[target] = [
                half * (own + sum(x[i][d] for i in members) / len(members)) for d, own in enumerate(x[target])
            ]
    return _outcome(x, dominant + targets, new)


def prumerge_loop(
    units: Tensor, scores: Tensor, keys: Tensor, p: int, top: float = 0.5, neighbours: int = 32
) -> Outcome:
    x, k, total = units.tolist(), keys.tolist(), math.fsum(scores.tolist())
    share = [score / total for score in scores.tolist()]
    everyone, order = range(len(x)), ranked(scores)
    best = order[: at_least_one(top, p - 1)] if p > 1 else []
    kept = best + at_a_stride([i for i in everyone if i not in best], p - 1 - len(best))
    dropped = [i for i in everyone if i not in kept]
    new = {}
    for j in kept:
        others = [i for i in everyone if i != j]
        near = sorted(others, key=lambda i: -cosine(k[j], k[i]))[:neighbours]
        new[j] = [own + sum(share[i] * x[i][d] for i in near) for d, own in enumerate(x[j])]
    place = next(i for i in order if i in dropped)
    new[place] = [sum(share[i] * x[i][d] for i in dropped) for d in range(len(x[0]))]
    return _outcome(x, [*kept, place], new)


def vispruner_loop(
    units: Tensor, scores: Tensor, keys: Tensor, p: int, important: float = 0.5, per_round: int = 8
) -> Outcome:
    x = units.tolist()
    best = ranked(scores)[: at_least_one(important, p)]
    rest, goal = [i for i in range(len(x)) if i not in best], p - len(best)
    while goal and len(rest) > goal:
        even, odd = rest[0::2], rest[1::2]
        closest = {i: max(cosine(x[i], x[j]) for j in odd) for i in even}
        duplicates = sorted(even, key=lambda i: -closest[i])[: min(per_round, len(rest) - goal)]
        rest = [i for i in rest if i not in duplicates]
    return _outcome(x, best + (rest if goal else []), {})
