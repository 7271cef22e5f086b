"""The metrics of an evaluation: accuracy, retained accuracy, and their bootstrap intervals.

Pure functions on numpy arrays. A *statistic* is an array of 1 + D numbers: its value on the samples, then its
values on D bootstrap resamples. Statistics of one task with the same :class:`Resamples` are paired: the ratio
or difference of two is computed resample by resample.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

DRAWS = 2000
LEVEL = 0.95
LEAST_PLAIN = 0.75
"""Tasks at which the plain model's accuracy is lower are excluded from means over tasks."""


@dataclass(frozen=True)
class Resamples:
    """The weights of clusters of samples, in the original data and in each bootstrap resample."""

    index: npt.NDArray[np.int64]
    """(N,) the cluster of each sample."""
    weights: Array
    """(1 + D, C) integers: how often each cluster was drawn; 1 in the first row, the original data."""

    def mean(self, values: Sequence[float] | Sequence[bool]) -> Array:
        """(1 + D,) statistic: the mean of one value per sample; NaN without samples.

        Raises ValueError unless there is one value per sample.
        """
        if len(values) != len(self.index):
            raise ValueError(f"expected one value per sample: {len(self.index)}, got {len(values)}")
        clusters = self.weights.shape[1]
        sums = np.bincount(self.index, np.asarray(values, dtype=np.float64), minlength=clusters)
        sizes = np.bincount(self.index, minlength=clusters).astype(np.float64)
        return _ratio(self.weights @ sums, self.weights @ sizes)


def resample(clusters: Sequence[str], seed: int = 0, name: str = "", draws: int = DRAWS) -> Resamples:
    """Draw ``draws`` bootstrap resamples of whole clusters.

    Args:
        clusters: the cluster of each sample; samples about the same image share one.
        name: mixed into the seed, e.g. the task, so that each task is resampled independently of all others.
    """
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    count = len(names)
    weights = np.ones((1 + draws, count))
    if count:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        weights[1:] = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    return Resamples(index.astype(np.int64), weights)


def retained(accuracy: Array, plain: Array) -> Array:
    """Statistic: accuracy in % of the plain model's; NaN where the plain model's is 0."""
    return 100 * _ratio(accuracy, plain)


def retained_above_blank(accuracy: Array, plain: Array, blank: Array) -> Array:
    """Statistic: 100 * (accuracy - blank) / (plain - blank); NaN unless plain is above blank.

    ``blank`` is the plain model's accuracy on grey images, i.e. what can be guessed from the questions alone.
    """
    return 100 * _ratio(accuracy - blank, plain - blank)


def mean_over_tasks(statistics: Sequence[Array]) -> Array:
    """Statistic: the unweighted mean over tasks; NaN where any task's is, and without tasks."""
    if not statistics:
        return np.full(1, np.nan)
    return np.asarray(np.mean(statistics, axis=0), dtype=np.float64)


@dataclass(frozen=True)
class Estimate:
    """A value and its interval. All None if the value is undefined; the ends None if there is no interval."""

    value: float | None
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """JSON-ready."""
        return {"value": self.value, "low": self.low, "high": self.high}


def estimate(statistic: Array, level: float = LEVEL) -> Estimate:
    """The value of a statistic and its percentile interval.

    Resamples without a value are ignored. If they are more than a share of 1 - level, there is no interval,
    because the denominator may be zero.
    """
    value, rest = float(statistic[0]), statistic[1:]
    if math.isnan(value):
        return Estimate(None, None, None)
    known = rest[~np.isnan(rest)]
    if not len(known) or len(known) < level * len(rest):
        return Estimate(value, None, None)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def two_sided_p(statistic: Array) -> float | None:
    """Two-sided bootstrap p-value of a difference: 2 (1 + n) / (1 + D), at most 1.

    n is the number of resamples on the rarer side of zero; those at zero count on both sides. None if the
    statistic or one of its resamples is NaN.
    """
    draws = statistic[1:]
    if not len(draws) or bool(np.isnan(statistic).any()):
        return None
    rarer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (1 + len(draws)))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, which control the family-wise error rate of m comparisons.

    The i-th smallest p-value, from 0, is multiplied by m - i; the results are made monotone and clipped at 1.
    """
    adjusted, largest = [0.0] * len(values), 0.0
    for i, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - i) * values[place]))
        adjusted[place] = largest
    return adjusted


def _ratio(above: Array, below: Array) -> Array:
    """NaN where ``below`` is not positive."""
    out = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out
