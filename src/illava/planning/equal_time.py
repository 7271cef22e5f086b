"""Finds the budget at which a method reaches a speed-up: by prediction, then by measurement.

A speed-up falls as the budget grows, in steps, because tokens are whole. Predictions know the shape of this
curve, and measurements its height: the inverse speed-ups, shares of the plain model's time, are assumed to be
a linear function of the predicted ones near the target.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LEAST = 1 / 64
"""The smallest budget tried. A method that is too slow even there ends there."""
TOLERANCE = 0.05
"""The relative difference between a measured speed-up and its target above which a row is marked."""
CLOSE = 0.02
"""The relative difference at which calibration stops."""
ROUNDS = 5
"""Measurements of one row, at most."""
HALVINGS = 18
"""Of the logarithm of the budget: 4.2 / 2**18 is far below the share of one token."""
DIGITS = 5
"""Significant digits of a budget."""
STEEPEST = 3.0
"""How much a secant may differ from the ratio of measured and predicted time, either way. Two noisy points
next to each other would send the search anywhere."""
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
    """At this budget: measured, or predicted if nothing was measured."""
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
    """The budget at which ``target`` is measured, found by a secant method in at most :data:`ROUNDS` rounds.

    Args:
        measured: runs the model. Several measurements of one budget count by their median.
        known: budget -> speed-ups of earlier measurements of the same curve.

    The result is the measured budget nearest to the target, whether or not it is within tolerance; where the
    method is too slow even at :data:`LEAST`, its fastest.
    """
    runs = {keep: list(speedups) for keep, speedups in (known or {}).items()}
    for _ in range(ROUNDS):
        points = _medians(runs)
        if points and _distance(_nearest(points, target)[1], target) <= math.log1p(CLOSE):
            break
        keep = next_budget(predicted, points, target)
        at_least = len(runs.get(LEAST, ()))
        if keep == LEAST and at_least and (at_least > 1 or points[LEAST] < HOPELESS * target):
            break
        # The latest measurement comes last, also if the budget has been measured before.
        runs[keep] = [*runs.pop(keep, []), measured(keep)]
    points = _medians(runs)
    fastest = max(points, key=points.__getitem__)
    if LEAST in points and _too_slow(points[fastest], target):
        # Near the smallest budget the curve is flat, and noise decides which budget is the fastest.
        return Budget(fastest, points[fastest], target, ends=True)
    keep, speedup = _nearest(points, target)
    return Budget(keep, speedup, target)


def next_budget(predicted: Speedup, points: Mapping[float, float], target: float) -> float:
    """The budget to measure next.

    Args:
        points: budget -> measured speed-up, the latest last.

    Without a point it is the predicted one. A single point scales all predictions. With several, the line
    through the two latest maps predicted to measured shares of the plain model's time, so that a disturbed
    measurement is soon forgotten.
    """
    if not points:
        return budget_for(predicted, target)
    first, *others = reversed(points)
    x, y = 1 / predicted(first), 1 / points[first]
    slope = y / x
    for other in others:
        across, up = 1 / predicted(other) - x, 1 / points[other] - y
        if across * up > 0:
            # Noise can turn a line round; then the next point is taken, or the scale.
            slope = min(max(up / across, slope / STEEPEST), slope * STEEPEST)
            break
    share = x + (1 / target - y) / slope
    return LEAST if share <= 0 else budget_for(predicted, 1 / share)


def _too_slow(speedup: float, target: float) -> bool:
    return speedup < target * (1 - TOLERANCE)


def _medians(runs: Mapping[float, Sequence[float]]) -> dict[float, float]:
    return {keep: statistics.median(speedups) for keep, speedups in runs.items()}


def _nearest(points: Mapping[float, float], target: float) -> tuple[float, float]:
    return min(points.items(), key=lambda point: _distance(point[1], target))


def _distance(speedup: float, target: float) -> float:
    return abs(math.log(speedup / target))


def _rounded(logarithm: float) -> float:
    return min(1.0, max(LEAST, float(f"{math.exp(logarithm):.{DIGITS}g}")))
