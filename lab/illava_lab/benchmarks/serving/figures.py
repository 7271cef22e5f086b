"""Percentiles, rates and their uncertainty.

A percentile is an observed value: the smallest that at least so many percent of the values do not exceed
(numpy's "inverted_cdf"). Intervals come from a bootstrap over rounds, not over requests: requests of one
stretch of load share a queue and are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from .client import Outcome

EDGES = [round(float(edge), 4) for edge in 0.01 * 2.0 ** (np.arange(0, 29) / 2)]
"""Seconds, from 0.01 to 164: borders of a histogram's bars, each 1.41 times the one before."""
PERCENTS = (50, 90, 95, 99)
DRAWS = 1000


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of the values do not exceed."""
    # numpy's own function does the same, many times slower: a bootstrap calls this for every draw.
    rank = math.ceil(percent * len(values) / 100) - 1
    return float(np.partition(np.asarray(values, float), rank)[rank])


def histogram(values: Sequence[float]) -> list[int]:
    """The number of values up to each of EDGES (and above the one before), and above the last."""
    counts = np.bincount(np.searchsorted(EDGES, values, side="left"), minlength=len(EDGES) + 1)
    return [int(count) for count in counts]


def describe(values: Sequence[float]) -> dict[str, Any]:
    """Percentiles, extremes and histogram of times in seconds; None where a request was never answered."""
    if not len(values):
        return {"count": 0}
    found = {f"p{percent}": percentile(values, percent) for percent in PERCENTS}
    found |= {"low": float(min(values)), "high": float(max(values))}
    return {
        "count": len(values),
        **{name: None if np.isinf(value) else value for name, value in found.items()},
        "histogram": histogram(values),
    }


class Slice:
    """The outcomes of one stretch of load.

    Args:
        begin, end: seconds in the run between which requests are counted: after it has settled.
    """

    def __init__(self, outcomes: Sequence[Outcome], begin: float, end: float) -> None:
        self.begin, self.end = begin, end
        self.due = [one for one in outcomes if begin <= one.due < end]
        """Those whose waiting counts."""
        self.ended = [one for one in outcomes if one.end is not None and begin <= one.end < end]
        """Those that count as throughput."""

    @cached_property
    def ttfts(self) -> list[float]:
        """Seconds to the first token; those that were not answered waited for ever."""
        return [np.inf if one.ttft is None else one.ttft for one in self.due]

    @cached_property
    def waits(self) -> np.ndarray:
        """The same as float64."""
        return np.array(self.ttfts, float)

    @cached_property
    def latencies(self) -> list[float]:
        """Seconds to the end of the answer, likewise."""
        return [np.inf if one.latency is None else one.latency for one in self.due]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.ended) / (self.end - self.begin)


def rate(slices: Sequence[Slice]) -> float:
    """Answers a second of all slices together."""
    return sum(len(one.ended) for one in slices) / sum(one.end - one.begin for one in slices)


def p99(slices: Sequence[Slice]) -> float:
    """The 99th percentile of the time to the first token, of all slices together."""
    values = np.concatenate([one.waits for one in slices])
    return percentile(values, 99) if len(values) else math.nan


def interval(
    rounds: int, of: Callable[[Sequence[int]], float | None], seed: int = 0
) -> dict[str, float | None]:
    """A figure of all rounds, and its 95 % interval when rounds are drawn anew (bootstrap).

    Args:
        of: the figure of the rounds with these numbers, which may repeat; None: it has no value.
    """
    rng = np.random.default_rng(seed)
    drawn = [of([int(n) for n in rng.integers(0, rounds, rounds)]) for _ in range(DRAWS)]
    values = [value for value in drawn if value is not None]
    low, high = (percentile(values, percent) if values else None for percent in (2.5, 97.5))
    return {"value": of(range(rounds)), "low": low, "high": high, "drawn_with_value": len(values) / DRAWS}


def at_limit(rates: Sequence[float], waits: Sequence[float], limit: float) -> float | None:
    """The rate at which the wait reaches ``limit``, by straight lines between the measured points.

    Args:
        rates: rising, in requests a second; waits: seconds at each.

    Returns the last rate if no wait exceeds the limit, and None if all do: what is beyond the points is not
    guessed.
    """
    points = sorted(zip(rates, waits, strict=True))
    if points[0][1] > limit:
        return None
    for (low, before), (high, after) in pairwise(points):
        if after > limit:
            share = 0.0 if np.isinf(after) else (limit - before) / (after - before)
            return low + share * (high - low)
    return points[-1][0]
