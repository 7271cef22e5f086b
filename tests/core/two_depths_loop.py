"""The selection by clusters at two depths, written out over Python floats."""

from __future__ import annotations

from tests.core.loops import alike, dot

Vector = list[float]


def whole(a: Vector, b: Vector) -> int:
    """The cosine similarity in steps of 2^-14."""
    return round(alike(a, b, "cosine") * 2**14)


def direction(vector: Vector) -> Vector:
    length = sum(x * x for x in vector) ** 0.5
    return [x / length for x in vector] if length else vector


def product(a: Vector, b: Vector) -> int:
    """The dot product in steps of 2^-14."""
    return round(dot(a, b) * 2**14)


def mean(vectors: list[Vector]) -> Vector:
    """Of the directions of the vectors."""
    return [sum(column) / len(vectors) for column in zip(*map(direction, vectors), strict=True)]


def clusters(units: list[Vector], count: int = 4, rounds: int = 10) -> list[int]:
    """The number of each unit's cluster, by spherical k-means from units far from each other."""
    middle, everyone = mean(units), range(len(units))
    centres = [units[max(everyone, key=lambda i: whole(units[i], middle))]]
    while len(centres) < min(count, len(units)):
        centres.append(units[min(everyone, key=lambda i: max(whole(units[i], centre) for centre in centres))])

    def labels() -> list[int]:
        return [max(range(len(centres)), key=lambda c: whole(unit, centres[c])) for unit in units]

    for _ in range(rounds):
        label = labels()
        for number in range(len(centres)):
            if number in label:
                centres[number] = mean([u for u, own in zip(units, label, strict=True) if own == number])
    return labels()


def parts(sizes: list[int], places: int) -> list[int]:
    """Places of each cluster in proportion to its size, by the largest remainders."""
    total = sum(sizes)
    out = [places * size // total for size in sizes]
    largest = sorted(range(len(sizes)), key=lambda c: -(places * sizes[c] % total))
    for number in largest[: places - sum(out)]:
        out[number] += 1
    return out


def two_depths_loop(
    units: list[Vector], earlier: list[Vector], selected: list[int], p: int
) -> tuple[list[int], list[int]]:
    """The units selected beside ``selected``, and the places of each cluster."""
    rest = [i for i in range(len(units)) if i not in selected]
    label = dict(zip(rest, clusters([units[i] for i in rest]), strict=True))
    count = min(4, len(rest))
    members = [[i for i in rest if label[i] == number] for number in range(count)]
    places = parts([len(some) for some in members], p - len(selected))
    chosen = []
    for some, few in zip(members, places, strict=True):

        def similarity(i: int, some: list[int] = some) -> int:
            # The mean of directions is shorter than 1, and by how much matters.
            return sum(
                product(direction(depth[i]), mean([depth[j] for j in some])) for depth in (units, earlier)
            )

        chosen += sorted(some, key=similarity)[:few]
    return sorted(chosen), places
