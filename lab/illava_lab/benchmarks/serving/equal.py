"""Requests a second at equal 99th percentile of the time to the first token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .figures import Slice, at_limit, interval, p99

Rungs = Mapping[str, Mapping[float, Sequence[Slice]]]
"""By variant and by rate of arrivals: a slice of each round."""


def limits(rungs: Rungs, at: float, rounds: Sequence[int]) -> float:
    """The wait that plain has at its rung ``at``, in these rounds."""
    return p99([rungs["plain"][at][n] for n in rounds])


def sustained(rungs: Rungs, variant: str, limit: float, rounds: Sequence[int]) -> float | None:
    """The rate at which a variant's wait reaches ``limit``; None if it exceeds it at every rung."""
    rates = sorted(rungs[variant])
    waits = [p99([rungs[variant][rate][n] for n in rounds]) for rate in rates]
    return at_limit(rates, waits, limit)


def compare(rungs: Rungs, at: float, rounds: int, limit: float | None = None) -> dict[str, Any]:
    """The rates of all variants at one limit, and how many times plain's each is.

    Args:
        at: plain's rung whose wait is the limit, if ``limit`` is None.
        rounds: slices of each rung.
        limit: seconds.
    """

    def rate(variant: str, chosen: Sequence[int]) -> float | None:
        found = limits(rungs, at, chosen) if limit is None else limit
        return sustained(rungs, variant, found, chosen)

    def ratio(variant: str, chosen: Sequence[int]) -> float | None:
        this, plain = rate(variant, chosen), rate("plain", chosen)
        return this / plain if this and plain else None

    reached = limits(rungs, at, range(rounds)) if limit is None else limit
    result: dict[str, Any] = {"limit_p99_ttft": None if math.isinf(reached) else reached, "variants": {}}
    for variant, by_rate in rungs.items():
        result["variants"][variant] = {
            "rate": interval(rounds, lambda chosen, v=variant: rate(v, chosen)),
            "times_plain": interval(rounds, lambda chosen, v=variant: ratio(v, chosen)),
            # The limit was not reached at any rung: the true rate is this or more.
            "at_least": rate(variant, range(rounds)) == max(by_rate),
        }
    return result
