"""A schedule at a budget, with its predictions; and the largest budget that reaches targets."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from .placements import effective, has_llm_layer, method_at
from .predict import Predictor
from .recommendation import Candidate
from .sensitivity import Placement, divergence
from .targets import TOLERANCE, shortfall
from .timing import Timing

THOUSANDTHS = range(28, 1000)
"""Budgets to try if ``keep`` is no target, from 1/36 on."""
LEAST = THOUSANDTHS[0] / 1000


def candidate(predictor: Predictor, keep: float, placement: Placement, times: Timing | None) -> Candidate:
    """The schedule of ``placement`` at a budget, with what is predicted of it."""
    modules = predictor.modules
    method = method_at(modules, keep, placement)
    if not placement.smaller_picture and not has_llm_layer(modules):
        # The encoder does the whole reduction.
        placement = replace(placement, encoder_share=1.0)
    prediction = predictor.of(method)
    if placement.smaller_picture:
        # Whole rows of patches are left.
        keep = prediction.final_tokens / prediction.visual_tokens
    seconds = None if times is None else times(prediction)
    expected = divergence(keep, effective(modules, placement))
    return Candidate(method, placement, prediction, expected, seconds)


def largest_budget(
    predictor: Predictor, placement: Placement, targets: dict[str, float], times: Timing | None
) -> Candidate:
    """The candidate with the largest budget that reaches the targets; if none does, the smallest budget."""
    tried: dict[int, Candidate] = {}

    def reaches(thousandths: int) -> bool:
        tried[thousandths] = candidate(predictor, thousandths / 1000, placement, times)
        return shortfall(tried[thousandths], targets) <= TOLERANCE

    # Costs rise with the budget: search for the first budget that misses the targets.
    least = THOUSANDTHS[0]
    if not reaches(least):
        return tried[least]
    first = bisect_left(THOUSANDTHS, True, key=lambda thousandths: not reaches(thousandths))
    return tried[THOUSANDTHS[first - 1]]
