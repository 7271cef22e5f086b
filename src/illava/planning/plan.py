"""Chooses a schedule for a target: a budget of tokens or bytes, a speed-up, or a time to the first token.

Candidates have the preset's three late steps in the encoder, or one at another depth, and one step in the
LLM, with several shares of the reduction. For every candidate the planner predicts the cost on the given
model (:mod:`illava.planning.predict`) and the divergence from the plain model
(:mod:`illava.planning.sensitivity`). Of all candidates that reach the target it chooses the schedule with the
lowest predicted divergence, or a smaller picture where that is predicted to diverge less.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..models.layout import workload
from ..models.located import LocatedModules
from ..models.workload import Size, Workload
from .accelerator import AcceleratorRates
from .candidates import LEAST, candidate, largest_budget
from .machine_speed import Rates
from .placements import has_llm_layer, placements
from .predict import Predictor, modules_of
from .recommendation import Candidate as Candidate
from .recommendation import Recommendation as Recommendation
from .sensitivity import PRESET, divergence
from .smaller_picture import or_smaller_picture
from .targets import TOLERANCE, collect_targets, describe, missed, shortfall
from .timing import Timing, timing
from .verdict import judged

HARDLY = 1.01
"""How much farther from unreachable targets a schedule may be to diverge less."""
FARTHER = 1.05
"""How many times the preset's divergence at the same budget is not worth a word."""


def plan(
    model: Any,
    keep: float | None = None,
    speedup: float | None = None,
    kv_bytes: int | None = None,
    ttft_ms: float | None = None,
    *,
    picture_size: int | Size | None = None,
    pictures: int = 1,
    frames: int = 0,
    prompt_tokens: int = 47,
    batch: int = 1,
    rates: Rates | AcceleratorRates | None = None,
) -> Recommendation:
    """Find the schedule with the lowest predicted divergence that reaches all given targets.

    Or a smaller picture, a :class:`~illava.Downsample`, where that is predicted to diverge less, to come
    nearer to targets that no schedule reaches, or to reach targets for which merging does not pay; not with
    ``keep``.

    With ``rates`` it also says whether merging brings the first token sooner. Where it does not, as with
    small pictures on an accelerator, it recommends to keep all tokens, unless the KV cache would then exceed
    ``kv_bytes``.

    Args:
        model: a transformers VLM, or its config.
        keep: share of all visual tokens that is left at the end, in (0, 1]. As the only target it gives the
            schedule of ``accelerate(model, keep=...)``.
        speedup: minimum speed-up to the first token, in FLOPs, or in seconds if ``rates`` is given.
        kv_bytes: maximum size of the KV cache after the prefill, over the batch, in bytes.
        ttft_ms: maximum time to the first token, in milliseconds; needs ``rates``.
        picture_size, pictures, frames, prompt_tokens, batch: the prompt; see
            :func:`illava.models.layout.workload`.
        rates: the speed of this machine on this model, see
            :func:`illava.planning.machine_speed.measure_rates`; or of an accelerator, see
            :func:`illava.planning.accelerator.data_sheet_rates` and
            :func:`illava.planning.accelerator_measuring.measure_accelerator`.

    Raises ValueError if no target is given or one is out of range, UnsupportedError for an unsupported model.
    """
    targets = collect_targets(keep, speedup, kv_bytes, ttft_ms)
    if ttft_ms is not None and rates is None:
        raise ValueError(
            "ttft_ms needs the speed of a machine: pass rates=measure_rates(model), or data_sheet_rates(name)"
        )
    modules = modules_of(model)
    work = workload(modules, picture_size, pictures, frames, prompt_tokens, batch)
    return plan_on(modules, work, targets, rates)


def plan_on(
    modules: LocatedModules,
    work: Workload,
    targets: dict[str, float],
    rates: Rates | AcceleratorRates | None = None,
    element_size: int | None = None,
    *,
    smaller_picture: bool = True,
) -> Recommendation:
    """As :func:`plan`, for located modules, a workload and targets from :func:`collect_targets`.

    Args:
        element_size: bytes per element; default: that of the accelerator's rates, or of the model's weights.
        smaller_picture: whether to recommend a smaller picture where it is predicted to diverge less.
    """
    if element_size is None and isinstance(rates, AcceleratorRates):
        element_size = rates.element_size
    predictor = Predictor(modules, work, element_size)
    times = None if rates is None else timing(predictor, rates)
    found, tried = _search(predictor, targets, times)
    if found.prediction.steps and times is not None:
        keep_all = candidate(predictor, 1.0, PRESET, times)
        found = judged(found, tried, keep_all, lambda: _fastest(predictor, tried, times))
    if smaller_picture:
        found = or_smaller_picture(found, predictor, times)
    return replace(found, reason=_with_note(found, modules, rates))


def _search(
    predictor: Predictor, targets: dict[str, float], times: Timing | None
) -> tuple[Recommendation, list[Candidate]]:
    """The schedule for the targets, whether or not merging pays, and the candidates it was chosen from."""
    if "keep" in targets:
        keep = targets["keep"]
        found = [
            candidate(predictor, keep, placement, times) for placement in placements(predictor.modules, keep)
        ]
        if len(targets) == 1:
            chosen = candidate(predictor, keep, PRESET, times)
            reason = "the preset illava-best"
            return Recommendation(chosen, targets, True, reason, _alternatives(chosen, found)), found
    else:
        found = [candidate(predictor, 1.0, PRESET, times)]
        if shortfall(found[0], targets) > TOLERANCE:
            found = [
                largest_budget(predictor, at, targets, times) for at in placements(predictor.modules, 0.5)
            ]
    reaching = [one for one in found if shortfall(one, targets) <= TOLERANCE]
    if not reaching:
        chosen = min(found, key=lambda one: (missed(one, targets), shortfall(one, targets), one.divergence))
        if "keep" not in targets:
            chosen = _without_waste(predictor, chosen, targets, times)
        reason = f"not possible; the nearest schedule has: {describe(chosen, targets)}"
        return Recommendation(chosen, targets, False, reason), found
    if found[0].method.keep == 1 and reaching == found:
        reason = f"no merging needed: {describe(found[0], targets)}"
        return Recommendation(found[0], targets, True, reason), found
    # Of schedules with the same divergence after rounding, the fastest.
    chosen = min(reaching, key=lambda one: (round(math.log(one.divergence + 1e-9), 1), -one.speedup))
    plural = "s that reach" if len(reaching) != 1 else " that reaches"
    reason = (
        f"of {len(reaching)} schedule{plural} the target, the one with the lowest predicted divergence: "
        f"{describe(chosen, targets)}"
    )
    return Recommendation(chosen, targets, True, reason, _alternatives(chosen, reaching)), found


def _fastest(predictor: Predictor, tried: list[Candidate], times: Timing | None) -> Candidate:
    """The fastest schedule of all placements at the smallest budget, and of those that were tried."""
    smallest = [candidate(predictor, LEAST, at, times) for at in placements(predictor.modules, LEAST)]
    return max((*smallest, *tried), key=lambda one: one.speedup)


def _without_waste(
    predictor: Predictor, nearest: Candidate, targets: dict[str, float], times: Timing | None
) -> Candidate:
    """The schedule with the lowest divergence that is hardly farther from the targets than ``nearest``.

    Once launches decide, a smaller budget brings nothing. Targets that ``nearest`` reaches stay reached.
    """
    if nearest.seconds is None or not nearest.seconds[0].launches:
        return nearest
    eased = dict(targets)
    for name, value in targets.items():
        factor = shortfall(nearest, {name: value})
        if factor > TOLERANCE:
            factor *= HARDLY
            eased[name] = value / factor if name == "speedup" else value * factor
    found = [largest_budget(predictor, at, eased, times) for at in placements(predictor.modules, 0.5)]
    return min(
        (one for one in found if shortfall(one, eased) <= TOLERANCE and one.pays >= nearest.pays),
        key=lambda one: one.divergence,
        default=nearest,
    )


def _alternatives(chosen: Candidate, others: list[Candidate]) -> tuple[Candidate, ...]:
    """The candidates whose cost to the first token is within 5 % of the chosen one."""
    total = chosen.prediction.cost.total
    return tuple(
        one
        for one in others
        if one.method != chosen.method and abs(one.prediction.cost.total / total - 1) <= 0.05
    )


def _with_note(found: Recommendation, modules: LocatedModules, rates: Rates | AcceleratorRates | None) -> str:
    """The reason, with what qualifies it."""
    reason, one = found.reason, found.chosen
    if isinstance(rates, AcceleratorRates) and not rates.measured:
        reason += (
            f"; seconds follow from the data sheet of {rates.name} and assumed launch costs, which no card "
            "has confirmed: measure with illava bench"
        )
    elif rates is not None and one.prediction.steps:
        reason += "; predictions are less accurate for small models: measure with illava bench"
    placement = one.placement
    if not found.met or not one.prediction.steps or placement.smaller_picture:
        return reason
    if not has_llm_layer(modules):
        return f"{reason}; the encoder does the whole reduction, since this LLM has no layer to merge before"
    keep = one.method.keep or 1.0
    if one.divergence <= FARTHER * divergence(keep):
        return reason
    where = "late" if placement.encoder is None else f"after {placement.encoder:.0%} of its blocks"
    parts = [f"the encoder merges {where} and does {placement.encoder_share:.0%} of the reduction"]
    if placement.encoder_share < 1:
        parts.append(f"the LLM merges after {placement.llm:.0%} of its layers")
    return (
        f"{reason}; {', '.join(parts)}: at this budget {one.divergence / divergence(keep):.1f} times the "
        "preset's predicted divergence; calibrate on your own images"
    )
