"""Targets of the planner: their checks, how far a schedule misses them, and how both are described."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..methods.checks import check_share

if TYPE_CHECKING:
    from .recommendation import Candidate

TOLERANCE = 1 + 1e-9
"""A schedule whose :func:`shortfall` is at most this reaches all targets."""

TIMES = frozenset({"speedup", "ttft_ms"})
"""The targets for the time to the first token."""


def collect_targets(
    keep: float | None,
    speedup: float | None,
    kv_bytes: int | None,
    ttft_ms: float | None,
    called: Callable[[str], str] = str,
) -> dict[str, float]:
    """The targets that are not None, by name.

    Args:
        keep, speedup, kv_bytes, ttft_ms: as for :func:`illava.plan`.
        called: a target's name to what its user calls it, for messages.

    Raises ValueError if there is none or one is out of range.
    """
    given = {"keep": keep, "speedup": speedup, "kv_bytes": kv_bytes, "ttft_ms": ttft_ms}
    targets = {name: float(value) for name, value in given.items() if value is not None}
    if not targets:
        *names, last = map(called, given)
        raise ValueError(f"give at least one target: {', '.join(names)} or {last}")
    if keep is not None:
        check_share(called("keep"), keep)
    for name, value in targets.items():
        if not math.isfinite(value):
            raise ValueError(f"{called(name)} must be a finite number, got {value}")
        if value <= 0 or (name == "speedup" and value < 1):
            least = "at least 1" if name == "speedup" else "above 0"
            raise ValueError(f"{called(name)} must be {least}, got {value:g}")
    return targets


_MEASURES: dict[str, Callable[[Candidate], float]] = {
    "speedup": lambda candidate: candidate.speedup,
    "kv_bytes": lambda candidate: candidate.prediction.cost.kv_bytes,
    "ttft_ms": lambda candidate: 1e3 * candidate.seconds[0].ttft if candidate.seconds else math.inf,
}


def shortfall(candidate: Candidate, targets: dict[str, float]) -> float:
    """The ratio by which a candidate misses its worst target; at most 1 if it reaches all of them."""
    worst = 0.0
    for name, measure in _MEASURES.items():
        if name in targets:
            value, target = measure(candidate), targets[name]
            worst = max(worst, target / value if name == "speedup" else value / target)
    return worst


def missed(candidate: Candidate, targets: dict[str, float]) -> int:
    """How many of the targets a candidate misses; its budget is not checked."""
    return sum(shortfall(candidate, {name: value}) > TOLERANCE for name, value in targets.items())


def describe(candidate: Candidate, targets: dict[str, float]) -> str:
    """What a candidate reaches of each target, in words."""
    parts = []
    if "speedup" in targets:
        unit = "seconds" if candidate.seconds else "FLOPs"
        parts.append(
            f"speed-up to the first token {candidate.speedup:.2f}x in {unit} (target {targets['speedup']:g}x)"
        )
    if "kv_bytes" in targets:
        kv_bytes = candidate.prediction.cost.kv_bytes
        parts.append(f"{kv_bytes:,} bytes of KV cache (target {targets['kv_bytes']:,.0f})")
    if "ttft_ms" in targets and candidate.seconds:
        milliseconds = 1e3 * candidate.seconds[0].ttft
        parts.append(f"{milliseconds:.0f} ms to the first token (target {targets['ttft_ms']:g})")
    launches = candidate.seconds[0].launches if candidate.seconds else 0
    if launches and ("speedup" in targets or "ttft_ms" in targets):
        parts.append(f"launches alone take {1e3 * launches:.1f} ms")
    return "; ".join(parts)
