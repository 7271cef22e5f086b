"""Where a smaller picture is the better way to a target than merging."""

from __future__ import annotations

from ..models.processed import resizes_inside
from .candidates import THOUSANDTHS, candidate, largest_budget
from .predict import Predictor
from .recommendation import Candidate, Recommendation
from .sensitivity import PICTURE, SMALLER_PICTURE
from .targets import TIMES, TOLERANCE, describe, missed, shortfall
from .timing import Timing

SMALLEST = SMALLER_PICTURE[0][0]
"""Share of the tokens of the smallest picture that was measured."""


def or_smaller_picture(found: Recommendation, predictor: Predictor, times: Timing | None) -> Recommendation:
    """``found``, or a smaller picture that is predicted to diverge less, or to come nearer to the targets.

    A picture adds no launches, so that it may also reach a target for which merging does not pay.
    """
    keeps_all = not found.prediction.steps
    if "keep" in found.targets or (keeps_all and found.refused is None):
        return found
    if not resizes_inside(predictor.modules):
        return found
    picture = _nearest(predictor, found.targets, times)
    if picture is None or not _is_better(picture, found):
        return found
    met = shortfall(picture, found.targets) <= TOLERANCE
    if keeps_all:
        why = "merging does not reach the target"
    elif met and not found.met:
        why = "no schedule of merging reaches the target"
    else:
        why = f"merging is predicted to diverge by {found.chosen.divergence:.2f} nats"
    start = "" if met else "not possible; nearest is "
    reason = (
        f"{start}a smaller picture, predicted to diverge by {picture.divergence:.2f} nats; {why}: "
        f"{describe(picture, found.targets)}; it loses small text first: check it on your own images"
    )
    pays = None
    if times is not None:
        # A target for the time that is reached is the user's own measure of what pays.
        pays = picture.pays or (met and not TIMES.isdisjoint(found.targets))
    others = (found.chosen, *found.alternatives) if met and found.met and not keeps_all else ()
    return Recommendation(picture, found.targets, met, reason, others, pays)


def _nearest(predictor: Predictor, targets: dict[str, float], times: Timing | None) -> Candidate | None:
    """The largest picture that reaches the targets, or the smallest one that was measured."""
    largest = largest_budget(predictor, PICTURE, targets, times)
    if shortfall(largest, targets) <= TOLERANCE and _share(largest) >= SMALLEST:
        return largest
    for thousandths in THOUSANDTHS:
        one = candidate(predictor, thousandths / 1000, PICTURE, times)
        if SMALLEST <= _share(one) < 1:
            return one
    return None


def _share(picture: Candidate) -> float:
    """Whole rows of patches are left, so that this is not the budget."""
    return picture.prediction.final_tokens / picture.prediction.visual_tokens


def _is_better(picture: Candidate, found: Recommendation) -> bool:
    targets = found.targets
    if shortfall(picture, targets) <= TOLERANCE:
        return not found.met or picture.divergence < found.chosen.divergence
    if found.met or found.refused is not None:
        return False

    def distance(one: Candidate) -> tuple[float, ...]:
        return missed(one, targets), shortfall(one, targets), one.divergence

    return distance(picture) < distance(found.chosen)
