"""A budget for each picture by its complexity, at the same mean over given pictures.

After "ERASE" (arXiv 2605.09982), where the median entropy of a picture's cells decides which of a few
shares it keeps. Here the share is a linear function of the complexity between two limits, whose two numbers
are measured on pictures of the user: pictures arrive one by one, so that no prompt can settle a mean by
itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real

Calibration = tuple[float, float]
"""(reference, slope): a complexity, and the change of the budget's factor for each unit of complexity."""

LIMITS = (0.5, 1.5)
"""Least and largest factor of a picture's budget."""
SPREAD = 0.25
"""Change of the factor for one standard deviation of complexity, so that the limits lie at two."""


def budget_factor(complexity: float, calibration: Calibration) -> float:
    """1 + slope * (complexity - reference), at least 0.5 and at most 1.5.

    Args:
        complexity: :func:`illava.ops.pixels.pixel_complexity` of a picture.
    """
    reference, slope = calibration
    return min(LIMITS[1], max(LIMITS[0], 1 + slope * (complexity - reference)))


def calibrated(complexities: Sequence[float], units: Sequence[int] | None = None) -> Calibration:
    """The calibration with which the mean factor of given pictures is 1.

    The slope is ``SPREAD`` over their standard deviation. The reference is their mean, moved where pictures
    lie beyond the limits. Other pictures have another mean, and a picture cannot keep more than all of
    its units.

    Args:
        complexities: of at least two pictures that differ, such as
            :func:`illava.evaluation.complexity.measure` returns.
        units: units of each picture, which weight the means: the mean is then that of units. None: equal
            weights.

    Raises ValueError for numbers of values that do not fit, and for pictures of one complexity.
    """
    values = [float(value) for value in complexities]
    weights = [1.0] * len(values) if units is None else [float(count) for count in units]
    if len(values) != len(weights) or not sum(weights) > 0 or min(weights) < 0:
        raise ValueError(f"units must be one count >= 0 for each of {len(values)} pictures, got {units!r}")
    total = sum(weights)
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / total
    variance = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True)) / total
    if min(values) == max(values) or not variance > 0:
        raise ValueError(
            f"a calibration needs pictures of different complexity, got {len(values)} equal ones"
        )
    slope = SPREAD / variance**0.5

    def excess(reference: float) -> float:
        factors = (budget_factor(value, (reference, slope)) for value in values)
        return sum(w * (f - 1) for w, f in zip(weights, factors, strict=True))

    # The excess does not grow with the reference, and is 0 in between.
    low, high = min(values), max(values)
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high, slope


def check_calibration(value: object) -> Calibration:
    """Check for two numbers, a reference in [0, 1] and a slope > 0, and return them as floats."""
    pair = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    numbers = [float(x) for x in pair if isinstance(x, Real) and not isinstance(x, bool)]
    if len(pair) != 2 or len(numbers) != 2 or not 0 <= numbers[0] <= 1 or not 0 < numbers[1] < math.inf:
        raise ValueError(f"complexity must be (reference in [0, 1], slope > 0), got {value!r}")
    return numbers[0], numbers[1]
