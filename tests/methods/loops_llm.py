"""The methods that act in the LLM, as their specification says them: loops over Python floats."""

from __future__ import annotations

import math

Vector = list[float]


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def softmax(logits: Vector) -> Vector:
    highest = max(logits)
    powers = [math.exp(logit - highest) for logit in logits]
    return [power / math.fsum(powers) for power in powers]


def ranked(scores: Vector) -> list[int]:
    """From the highest to the lowest; of equals the earlier first."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def mean_of(vectors: list[Vector]) -> Vector:
    return [math.fsum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def budget(n: int, keep: float) -> int:
    # Python rounds halves to even.
    return min(n, max(1, round(keep * n)))


def raters_loop(visual: list[Vector], words: list[Vector]) -> list[int]:
    """Which words rate."""
    if not words:
        return []
    each = [softmax([dot(v, t) for t in words]) for v in visual]
    leaning = [math.fsum(row[t] for row in each) / len(each) for t in range(len(words))]
    middle = math.fsum(leaning) / len(leaning)
    return [t for t, m in enumerate(leaning) if m > middle]


def clusters_for(dropped: int) -> int:
    return int((int(0.3 * dropped) + 1) / 10) + 1


def split_loop(n: int, count: int) -> tuple[int, int]:
    fitting = [p for p in range(1, count + 1) if p + clusters_for(n - p) == count]
    return (max(fitting), count - max(fitting)) if fitting else (1, count - 1)


def distance_of(a: Vector, b: Vector) -> float:
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))) / math.sqrt(len(a))


def clusters_loop(points: list[Vector], count: int, neighbours: int) -> list[list[int]]:
    """The points of each cluster, in the order of the centres."""
    n = len(points)
    apart = [[distance_of(a, b) for b in points] for a in points]
    density = []
    for i in range(n):
        nearest = sorted(apart[i][j] for j in range(n) if j != i)[:neighbours]
        density.append(math.exp(-sum(d**2 for d in nearest) / max(1, len(nearest))))
    distinction = []
    for i in range(n):
        denser = [j for j in range(n) if density[j] > density[i] or (density[j] == density[i] and j < i)]
        far = min((apart[i][j] for j in denser), default=max(map(max, apart)))
        distinction.append(density[i] * far)
    centres = sorted(ranked(distinction)[:count])
    out = [[centre] for centre in centres]
    for i in set(range(n)) - set(centres):
        out[min(range(count), key=lambda c: apart[i][centres[c]])].append(i)
    return out


def recycle_loop(
    vectors: list[Vector], scores: Vector, count: int, neighbours: int = 5
) -> tuple[list[int], list[Vector]]:
    """Which places are left, in order, and what stands there."""
    n = len(vectors)
    if count >= n:
        return list(range(n)), vectors
    p, clusters = split_loop(n, count)
    order = ranked(scores)
    left = {i: vectors[i] for i in order[:p]}
    if clusters:
        recycled = sorted(order[p : p + int(0.3 * (n - p)) + 1])
        members = clusters_loop([vectors[i] for i in recycled], clusters, neighbours)
        places = sorted(order[p:])[-clusters:]
        for place, cluster in zip(places, members, strict=True):
            left[place] = mean_of([vectors[recycled[j]] for j in cluster])
    return sorted(left), [left[i] for i in sorted(left)]


def cosine(a: Vector, b: Vector) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def unlike_loop(
    vectors: list[Vector], norms: Vector, words: list[Vector], word_norms: Vector, count: int
) -> list[int]:
    """Which visual tokens DART keeps of one run, ``words`` those behind it."""
    if count >= len(vectors):
        return list(range(len(vectors)))
    best = ranked(norms)
    taken = best[: min(4, count)]
    pivots = [vectors[i] for i in taken] + [words[i] for i in ranked(word_norms)[:4]]
    missing = count - len(taken)
    for number, pivot in enumerate(pivots):
        quota = int(missing / len(pivots)) + (number < missing % len(pivots))
        rest = [i for i in range(len(vectors)) if i not in taken]
        taken += sorted(rest, key=lambda i: cosine(vectors[i], pivot))[:quota]
    assert len(taken) == count
    return sorted(taken)


def covering_loop(vectors: list[Vector], words: list[Vector], count: int) -> list[int]:
    """Which visual tokens MMTok selects of one run, in that order; ``words`` are the question."""

    def similar(a: Vector, temperature: float) -> list[int]:
        alike = [round(cosine(a, b) * 2**14) / 2**14 for b in vectors]
        return [round(share * 2**24) for share in softmax([one / temperature for one in alike])]

    rows = [(1.0, similar(word, 0.01)) for word in words] + [(0.5, similar(x, 0.2)) for x in vectors]
    covered, taken = [0] * len(rows), []
    while len(taken) < count:

        def gain(i: int, covered: list[int] = covered) -> float:
            return sum(
                weight * max(0, row[i] - best) for (weight, row), best in zip(rows, covered, strict=True)
            )

        # max takes the first of several, and so the lower index.
        taken.append(max((i for i in range(len(vectors)) if i not in taken), key=gain))
        covered = [max(best, row[taken[-1]]) for (_, row), best in zip(rows, covered, strict=True)]
    return taken
