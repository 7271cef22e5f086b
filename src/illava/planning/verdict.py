"""Whether merging brings the first token sooner, its own cost included; if not, all tokens are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .recommendation import Candidate, Recommendation
from .targets import TOLERANCE, shortfall


def judged(found: Recommendation, tried: Sequence[Candidate], keep_all: Candidate) -> Recommendation:
    """``found`` if it pays; otherwise a schedule of the same budget that does, or ``keep_all``.

    A schedule for a KV cache of limited size stays, since the cache shrinks in any case; the reason then says
    that the first token does not come sooner.

    Args:
        found: a schedule that merges, with predicted seconds.
        tried: the candidates from which it was chosen.
        keep_all: the schedule that keeps all tokens.
    """
    if found.chosen.pays:
        return replace(found, pays=True, alternatives=tuple(one for one in found.alternatives if one.pays))
    fastest = max((*tried, found.chosen), key=lambda one: one.speedup)
    if "kv_bytes" in found.targets:
        return replace(found, pays=False, reason=f"{found.reason}; {_line(found.chosen)}")
    paying = [one for one in tried if one.pays]
    if paying:
        # Only the preset is taken without a search: other places of the same budget may pay.
        chosen = min(paying, key=lambda one: (one.divergence, -one.speedup))
        reason = (
            f"illava-best does not bring the first token sooner here; of {len(paying)} schedules with this "
            f"budget that do, this one has the lowest predicted divergence: {chosen.speedup:.2f}x in seconds"
        )
        return replace(found, chosen=chosen, reason=reason, alternatives=(), pays=True)
    met = "keep" not in found.targets and shortfall(keep_all, found.targets) <= TOLERANCE
    reason = _line(fastest, "; keep all visual tokens")
    return Recommendation(keep_all, found.targets, met, reason, pays=False, refused=fastest)


def _line(one: Candidate, advice: str = "") -> str:
    """Why merging does not pay, in numbers."""
    assert one.seconds is not None
    merged, plain = one.seconds
    floor = f"; the plain model's launches alone take {_ms(plain.launches)}" if plain.launches else ""
    return (
        f"merging does not pay here{advice}: the first token takes {_ms(plain.ttft)} plain and "
        f"{_ms(merged.ttft)} merged ({_ms(merged.merging)} of it for merging itself{floor})"
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"
