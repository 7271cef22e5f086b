"""Whether merging brings the first token sooner, its own cost included; if not, all tokens are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .recommendation import MIN_GAIN, Candidate, Recommendation
from .sensitivity import PRESET
from .targets import TIMES, TOLERANCE, shortfall

BARELY = f"bring the first token sooner by more than {100 * (MIN_GAIN - 1):.0f} %"


def judged(
    found: Recommendation,
    tried: Sequence[Candidate],
    keep_all: Candidate,
    fastest: Callable[[], Candidate],
) -> Recommendation:
    """``found`` if it pays; otherwise a schedule of the same budget that does, or ``keep_all``.

    A target for the time that is reached is the user's own measure of what pays: any speed-up will do. A
    schedule for a KV cache that is too large without merging stays, since the cache shrinks in any case; the
    reason then says that the first token does not come sooner.

    Args:
        found: a schedule that merges, with predicted seconds.
        tried: the candidates from which it was chosen.
        keep_all: the schedule that keeps all tokens.
        fastest: returns the fastest schedule there is, whatever the targets are.
    """
    least = 1.0 if found.met and not TIMES.isdisjoint(found.targets) else MIN_GAIN
    if found.chosen.speedup > least:
        alternatives = tuple(one for one in found.alternatives if one.speedup > least)
        return replace(found, pays=True, alternatives=alternatives)
    limit = {name: value for name, value in found.targets.items() if name == "kv_bytes"}
    if shortfall(keep_all, limit) > TOLERANCE:
        return replace(found, pays=False, reason=f"{found.reason}; {_of_cache(found.chosen, fastest())}")
    nearest = max(shortfall(found.chosen, found.targets), TOLERANCE)
    paying = [one for one in tried if one.pays and shortfall(one, found.targets) <= nearest]
    if paying:
        chosen = min(paying, key=lambda one: (one.divergence, -one.speedup))
        preset = found.chosen.placement == PRESET
        first = "preset illava-best" if preset else "schedule with the lowest predicted divergence"
        reason = (
            f"the {first} does not bring the first token sooner here; of {len(paying)} schedules with this "
            f"budget that do, this one has the lowest predicted divergence: {chosen.speedup:.2f}x in seconds"
        )
        return replace(found, chosen=chosen, reason=reason, alternatives=(), pays=True)
    met = "keep" not in found.targets and shortfall(keep_all, found.targets) <= TOLERANCE
    refused = max((*tried, found.chosen), key=lambda one: one.speedup)
    reason = _of_refused(refused, fastest())
    if not met and not TIMES.isdisjoint(found.targets):
        reason += "; the target cannot be reached"
    return Recommendation(keep_all, found.targets, met, reason, pays=False, refused=refused)


def _of_refused(refused: Candidate, fastest: Candidate) -> str:
    """Why all tokens are kept; merging as such is blamed only if no schedule pays."""
    if fastest.pays:
        advice = "keep all visual tokens, or fewer"
        return f"this budget does not {BARELY}; {advice}: {_times(refused)}{_but(fastest)}"
    return f"merging does not pay here; keep all visual tokens: {_times(refused)}"


def _of_cache(chosen: Candidate, fastest: Candidate) -> str:
    """What a schedule for the KV cache does not bring."""
    if fastest.pays:
        return f"this schedule does not {BARELY}: {_times(chosen)}{_but(fastest)}"
    return f"merging does not pay here: {_times(chosen)}"


def _but(fastest: Candidate) -> str:
    """What another budget brings."""
    return f"; keep={fastest.method.keep:g} has a speed-up of {fastest.speedup:.2f}x"


def _times(one: Candidate) -> str:
    """The times to the first token, plain and merged, and what merging takes of them."""
    assert one.seconds is not None
    merged, plain = one.seconds
    floor = f"; the plain model's launches alone take {_ms(plain.launches)}" if plain.launches else ""
    return (
        f"the first token takes {_ms(plain.ttft)} plain and {_ms(merged.ttft)} merged "
        f"({_ms(merged.merging)} of it for merging itself{floor})"
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"
