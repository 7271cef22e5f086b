"""The merge step and the scores written out as loops over Python floats: what the tests compare with.

Slow and obvious on purpose. Every number is a double, so a difference to the library is the library's
fp32 arithmetic or a mistake.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor


def round_half_even(x: float) -> int:
    below = math.floor(x)
    rest = Fraction(x) - below
    if rest == Fraction(1, 2):
        return below if below % 2 == 0 else below + 1
    return below if rest < Fraction(1, 2) else below + 1


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def alike(a: list[float], b: list[float], similarity: str) -> float:
    if similarity == "dot":
        return dot(a, b)
    lengths = math.sqrt(dot(a, a)) * math.sqrt(dot(b, b))
    return dot(a, b) / lengths if lengths else 0.0


def softmax(logits: list[float]) -> list[float]:
    highest = max(logits)
    powers = [math.exp(logit - highest) for logit in logits]
    total = math.fsum(powers)
    return [power / total for power in powers]


def ranked(scores: Tensor) -> list[int]:
    """Indices from the highest score to the lowest; of equal scores the earlier comes first."""
    values = scores.tolist()
    return sorted(range(len(values)), key=lambda i: -values[i])


def merge_loop(
    units: Tensor,
    scores: Tensor,
    p: int,
    reduce: str,
    recycle: float = 0.05,
    neighbours: int = 5,
    similarity: str = "dot",
) -> tuple[Tensor, list[int], set[int]]:
    """One segment, (n, D) and (n,): survivors (p, D) float64, their indices, which of those changed."""
    x = units.tolist()
    width = len(x[0])
    order = ranked(scores)
    kept = sorted(order[:p])
    new: dict[int, list[float]] = {}
    if reduce == "recycle":
        c = min(p, max(1, round_half_even(recycle * p)))
        for j in order[p - c : p]:
            # Dropped units equally similar to x_j: the higher-scored one is taken first.
            nearest = sorted(order[p:], key=lambda i: -alike(x[j], x[i], similarity))
            nearest = nearest[: min(neighbours, len(x) - p)]
            weights = softmax([alike(x[j], x[i], similarity) / math.sqrt(width) for i in nearest])
            new[j] = [
                (x[j][d] + sum(w * x[i][d] for w, i in zip(weights, nearest, strict=True))) / 2
                for d in range(width)
            ]
    elif reduce == "weighted":
        lowest = order[p - 1 :]
        total = sum(range(1, len(lowest) + 1))
        new[lowest[0]] = [
            sum(rank * x[i][d] for rank, i in enumerate(lowest, start=1)) / total for d in range(width)
        ]
    elif reduce == "fold":
        joined: dict[int, list[int]] = {j: [j] for j in kept}
        for i in order[p:]:
            joined[max(kept, key=lambda j: alike(x[i], x[j], similarity))].append(i)
        for j, members in joined.items():
            if len(members) > 1:
                new[j] = [sum(x[i][d] for i in members) / len(members) for d in range(width)]
    rows = [new.get(i, x[i]) for i in kept]
    return torch.tensor(rows, dtype=torch.float64), kept, set(new)


def diverse_loop(units: list[list[float]], scores: list[float], p: int) -> list[int]:
    """Indices in order of selection: first the highest score, then score times distance to those taken."""
    taken = [max(range(len(units)), key=lambda i: scores[i])]
    while len(taken) < p:

        def far(i: int) -> float:
            return scores[i] * min(max(0.0, 1 - alike(units[i], units[j], "cosine")) for j in taken)

        taken.append(max((i for i in range(len(units)) if i not in taken), key=far))
    return taken


def coverage_loop(
    units: list[list[float]],
    scores: list[float],
    p: int,
    sizes: list[float] | None = None,
    covered: list[int] | None = None,
) -> list[int]:
    """Indices in order of selection: by gain in the similarity of all units to the best of those taken.

    Similarities are rounded to multiples of 2^-14.
    """
    n = len(units)
    sizes, covered = sizes or [1.0] * n, list(range(n)) if covered is None else covered
    similar = [[round(alike(a, b, "cosine") * 2**14) for b in units] for a in units]
    best, taken = [0] * n, []
    for _ in range(p):

        def gain(i: int, best: list[int] = best) -> float:
            return scores[i] * sum(sizes[j] * max(0, similar[j][i] - best[j]) for j in covered)

        taken.append(max((i for i in range(n) if i not in taken), key=gain))
        best = [max(best[j], similar[j][taken[-1]]) for j in range(n)]
    return taken


def grey_levels_loop(patches: Tensor) -> list[list[list[list[int]]]]:
    """(N, 3, F, h, w) patches of one picture as whole grey levels from 0, its darkest, to 255."""
    grey = (0.299 * patches[:, 0].double() + 0.587 * patches[:, 1] + 0.114 * patches[:, 2]).tolist()
    every = [value for patch in grey for frame in patch for line in frame for value in line]
    low, wide = min(every), max(every) - min(every)
    return [
        [[[round((v - low) / wide * 255) if wide else 0 for v in line] for line in frame] for frame in patch]
        for patch in grey
    ]


def entropy_loop(patch: list[list[list[int]]]) -> float:
    """Of the histogram of grey levels, as a share of the largest possible one."""
    values = [value for frame in patch for line in frame for value in line]
    shares = [values.count(level) / len(values) for level in set(values)]
    return -sum(share * math.log(share) for share in shares) / max(1, math.log(min(len(values), 256)))


def pixel_complexity_loop(patches: Tensor) -> float:
    """(N, 3, F, h, w) patches of one picture to the lower median of their entropies."""
    entropies = sorted(map(entropy_loop, grey_levels_loop(patches)))
    return entropies[(len(entropies) - 1) // 2]


def pixel_cues_loop(patches: Tensor) -> list[float]:
    """(N, 3, F, h, w) patches of one picture: entropy of the grey levels of each, plus its share of edges."""
    _, _, frames, rows, columns = patches.shape
    levels = grey_levels_loop(patches)
    ordered = sorted(value for patch in levels for frame in patch for line in frame for value in line)
    middle = ordered[(len(ordered) - 1) // 2]

    def at(frame: list[list[float]], y: int, x: int) -> float:
        return frame[min(max(y, 0), rows - 1)][min(max(x, 0), columns - 1)]

    def gradient(frame: list[list[float]], y: int, x: int) -> float:
        sides = (-1, 0, 1)
        across = sum((2 - abs(d)) * (at(frame, y + d, x + 1) - at(frame, y + d, x - 1)) for d in sides)
        down = sum((2 - abs(d)) * (at(frame, y + 1, x + d) - at(frame, y - 1, x + d)) for d in sides)
        return math.hypot(across, down)

    cues, pixels = [], frames * rows * columns
    for patch in levels:
        smooth = [
            [
                [
                    sum(at(frame, y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)) / 9
                    for x in range(columns)
                ]
                for y in range(rows)
            ]
            for frame in patch
        ]
        edges = [
            gradient(frame, y, x) > 0.55 * middle
            for frame in smooth
            for y in range(rows)
            for x in range(columns)
        ]
        cues.append(entropy_loop(patch) + sum(edges) / pixels)
    return cues


def attention_row(query: Tensor, key: Tensor, scaling: float, bias: list[float] | None = None) -> list[float]:
    """Softmax weights of one query (h,) over keys (k, h); ``bias`` is added to the logits."""
    q = query.tolist()
    logits = [scaling * dot(q, k) for k in key.tolist()]
    if bias is not None:
        logits = [logit + b for logit, b in zip(logits, bias, strict=True)]
    return softmax(logits)


def column_scores_loop(query: Tensor, key: Tensor, scaling: float, rows: list[int]) -> Tensor:
    """(B, n) float64: the mean over heads and over the query rows ``rows`` of the softmax weights."""
    batch, heads, n, _ = query.shape
    heads_per_key = heads // key.shape[1]
    received = [[0.0] * n for _ in range(batch)]
    for b in range(batch):
        for head in range(heads):
            for i in rows:
                for j, weight in enumerate(
                    attention_row(query[b, head, i], key[b, head // heads_per_key], scaling)
                ):
                    received[b][j] += weight / (heads * len(rows))
    return torch.tensor(received, dtype=torch.float64)


def last_row_scores_loop(
    query: Tensor, key: Tensor, scaling: float, last: list[int], bias: list[list[list[float]]]
) -> Tensor:
    """(B, k) float64; ``bias[b][head][j]`` is what the mask adds to the logit of key j, -inf to hide it."""
    batch, heads = query.shape[:2]
    heads_per_key = heads // key.shape[1]
    mean = [[0.0] * key.shape[2] for _ in range(batch)]
    for b in range(batch):
        for head in range(heads):
            row = attention_row(
                query[b, head, last[b]], key[b, head // heads_per_key], scaling, bias[b][head]
            )
            for j, weight in enumerate(row):
                mean[b][j] += weight / heads
    return torch.tensor(mean, dtype=torch.float64)


def causal_bias(rows: int, length: int, last: int) -> list[float]:
    """What a causal mask adds in query row ``last`` of ``rows`` when ``length - rows`` keys were cached."""
    return [0.0 if j <= last + (length - rows) else -math.inf for j in range(length)]
