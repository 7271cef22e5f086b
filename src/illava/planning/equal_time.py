"""Finds the budget at which a method reaches a speed-up: by prediction, then by measurement.

A speed-up falls as the budget grows, in steps, because tokens are whole. Predictions know the shape of this
curve, and measurements correct it: the inverse speed-ups, shares of the plain model's time, are assumed to be
a linear function of the predicted ones. Single measurements on a shared machine are off by several percent,
so several near the target count, by medians.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

LEAST = 1 / 64
"""The smallest budget tried. A method that is too slow even there ends there."""
TOLERANCE = 0.05
"""The relative difference between a measured speed-up and its target above which a row is marked."""
WANTED, NEAR = 3, 1.12
"""Calibration stops after so many measurements whose speed-up is at most so many times as large or as small
as the target; these decide."""
ROUNDS = 7
"""Measurements for one row, at most."""
HALVINGS = 18
"""Of the logarithm of the budget: 4.2 / 2**18 is far below the share of one token."""
DIGITS = 5
"""Significant digits of a budget."""
APART = 1.05
"""Two measurements determine a slope only if their predicted times differ by this factor."""
STEEPEST = 3.0
"""How much that slope may differ from the ratio of measured and predicted time, either way."""
SHORTEST = 1e-3
"""The smallest share of the plain model's time that a line may promise."""
HOPELESS = 0.8
"""A method whose speed-up at :data:`LEAST` is below this share of the target is measured there only once, and
others twice."""

Speedup = Callable[[float], float]
"""A budget, final visual tokens / all, to a speed-up to the first token, plain / merged."""


@dataclass(frozen=True)
class Budget:
    """The budget of a row at a target."""

    keep: float
    speedup: float
    """At this budget: by the measurements near it, or predicted if nothing was measured."""
    target: float
    ends: bool = False
    """Whether the method cannot reach the target: this is the fastest that it is."""


def budget_for(speedup: Speedup, target: float) -> float:
    """The budget in [:data:`LEAST`, 1] whose speed-up is nearest to ``target``, by bisection.

    Args:
        speedup: falls as the budget grows.
    """
    if speedup(LEAST) <= target:
        return LEAST
    low, high = math.log(LEAST), 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if speedup(_rounded(middle)) >= target:
            low = middle
        else:
            high = middle
    reaching, missing = _rounded(low), _rounded(high)
    return min((missing, reaching), key=lambda keep: abs(math.log(speedup(keep) / target)))


def predicted_budget(predicted: Speedup, target: float) -> Budget:
    """The budget at which ``target`` is predicted."""
    keep = budget_for(predicted, target)
    speedup = predicted(keep)
    return Budget(keep, speedup, target, keep == LEAST and _too_slow(speedup, target))


def calibrated_budget(
    predicted: Speedup,
    measured: Speedup,
    target: float,
    known: Mapping[float, Sequence[float]] | None = None,
) -> Budget:
    """The budget at which measurements put ``target``, found in at most :data:`ROUNDS` of them.

    Args:
        measured: runs the model.
        known: budget -> speed-ups of earlier measurements of the same curve.

    The result has the budget and the speed-up that the measurements make likely; where the method is too slow
    even at :data:`LEAST`, its fastest budget, as measured.
    """
    runs = {keep: list(speedups) for keep, speedups in (known or {}).items()}
    for _ in range(ROUNDS):
        if sum(_is_near(speedup, target) for found in runs.values() for speedup in found) >= WANTED:
            break
        keep, _ = fitted_budget(predicted, runs, target)
        there = runs.get(LEAST, ())
        if keep == LEAST and there and (len(there) > 1 or there[0] < HOPELESS * target):
            break
        runs.setdefault(keep, []).append(measured(keep))
    medians = {keep: statistics.median(speedups) for keep, speedups in runs.items()}
    fastest = max(medians, key=medians.__getitem__)
    if LEAST in medians and _too_slow(medians[fastest], target):
        # Near the smallest budget the curve is flat, and noise decides which budget is the fastest.
        return Budget(fastest, medians[fastest], target, ends=True)
    return Budget(*fitted_budget(predicted, runs, target), target)


def fitted_budget(
    predicted: Speedup, runs: Mapping[float, Sequence[float]], target: float
) -> tuple[float, float]:
    """The budget whose speed-up is nearest to ``target`` by measurements, and its speed-up.

    Args:
        runs: budget -> measured speed-ups. Without any, the prediction counts.

    A line maps predicted to measured shares of the plain model's time. All measurements decide its slope, by
    medians (Theil, 1950; Sen, 1968), and those near the target its height, if there are :data:`WANTED`.
    """
    points = [(1 / predicted(keep), 1 / speedup) for keep, found in runs.items() for speedup in found]
    near = [point for point in points if _is_near(1 / point[1], target)]
    slope = _slope(points)
    shift = statistics.median(y - slope * x for x, y in (near if len(near) >= WANTED else points or [(1, 1)]))
    share = (1 / target - shift) / slope
    keep = LEAST if share <= 0 else budget_for(predicted, 1 / share)
    return keep, 1 / max(shift + slope / predicted(keep), SHORTEST)


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """The median slope of pairs of points; of points that are too close to each other, that to the origin."""
    scale = statistics.median(y / x for x, y in points or [(1, 1)])
    slopes = [
        (v - y) / (u - x) for (x, y), (u, v) in combinations(points, 2) if max(x, u) / min(x, u) >= APART
    ]
    return min(max(statistics.median(slopes or [scale]), scale / STEEPEST), scale * STEEPEST)


def _is_near(speedup: float, target: float) -> bool:
    return target / NEAR <= speedup <= target * NEAR


def _too_slow(speedup: float, target: float) -> bool:
    return speedup < target * (1 - TOLERANCE)


def _rounded(logarithm: float) -> float:
    return min(1.0, max(LEAST, float(f"{math.exp(logarithm):.{DIGITS}g}")))
