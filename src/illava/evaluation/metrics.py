"""What the figures of an evaluation mean: accuracy, what merging keeps of it, and how sure that is.

Pure functions on numpy arrays. A *statistic* is an array of 1 + D numbers: its value on the samples as they
are, then its value on D bootstrap resamples of them. Statistics of one task that share their
:class:`Resamples` are paired: a ratio or a difference of two is taken resample by resample.
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
"""Tasks that the plain model answers right less often than this are no part of means over tasks."""


@dataclass(frozen=True)
class Resamples:
    """How often each cluster of samples counts: once as they are, then in each bootstrap resample."""

    index: npt.NDArray[np.int64]
    """(N,) which cluster a sample belongs to."""
    weights: Array
    """(1 + D, C) whole numbers; the first row is all ones."""

    def mean(self, values: Sequence[float] | Sequence[bool]) -> Array:
        """(1 + D,) statistic: the mean of one value a sample; NaN when there are no samples.

        Raises ValueError unless there is one value a sample.
        """
        if len(values) != len(self.index):
            raise ValueError(f"need one value a sample: {len(self.index)} samples, {len(values)} values")
        clusters = self.weights.shape[1]
        sums = np.bincount(self.index, np.asarray(values, dtype=np.float64), minlength=clusters)
        sizes = np.bincount(self.index, minlength=clusters).astype(np.float64)
        return _ratio(self.weights @ sums, self.weights @ sizes)


def resample(clusters: Sequence[str], seed: int = 0, name: str = "", draws: int = DRAWS) -> Resamples:
    """Draw ``draws`` times as many clusters as there are, with replacement, whole clusters at a time.

    Args:
        clusters: of each sample; samples about one picture share theirs.
        name: mixed into the seed, e.g. the task, so that tasks are drawn independently of one another and
            of which other tasks there are.
    """
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    count = len(names)
    weights = np.ones((1 + draws, count))
    if count:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        weights[1:] = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    return Resamples(index.astype(np.int64), weights)


def retained(accuracy: Array, plain: Array) -> Array:
    """Statistic: accuracy in % of the plain model's; NaN where that is 0."""
    return 100 * _ratio(accuracy, plain)


def retained_above_blank(accuracy: Array, plain: Array, blank: Array) -> Array:
    """Statistic: 100 * (accuracy - blank) / (plain - blank); NaN where plain is not above blank.

    ``blank`` is the plain model's accuracy on grey pictures: what the questions give away.
    """
    return 100 * _ratio(accuracy - blank, plain - blank)


def mean_over_tasks(statistics: Sequence[Array]) -> Array:
    """Statistic: the mean over tasks, each weighing the same; NaN where one is, and when there are none."""
    if not statistics:
        return np.full(1, np.nan)
    return np.asarray(np.mean(statistics, axis=0), dtype=np.float64)


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; all None where it does not exist, the ends alone where they do not."""

    value: float | None
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """JSON-ready."""
        return {"value": self.value, "low": self.low, "high": self.high}


def estimate(statistic: Array, level: float = LEVEL) -> Estimate:
    """The value of a statistic and its percentile interval.

    Resamples without a value are left out; where they are more than 1 - level, there is no interval: the
    denominator may then be zero for all that the samples tell.
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
    """Two-sided bootstrap p-value of a difference: twice the share of resamples on the rarer side of zero.

    Resamples at zero count on both sides, and one is added to them and to all, so that no p is below
    2 / (D + 1). None where the statistic, or one of its resamples, does not exist.
    """
    draws = statistic[1:]
    if not len(draws) or bool(np.isnan(statistic).any()):
        return None
    rarer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (1 + len(draws)))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's p-values of a family of comparisons: to believe all below 5 % errs in at most 5 % of families.

    The i-th smallest of m (from 0) times m - i, never below those of smaller ones, never above 1.
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
