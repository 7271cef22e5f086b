"""Chooses a schedule for a target: a budget of tokens or bytes, a speed-up, or a time to the first token.

Candidates have the preset's three late steps in the encoder, or one at another depth, and one step in the
LLM. For every candidate the planner predicts the cost on the given model (:mod:`illava.planning.predict`) and
the divergence from the plain model (:mod:`illava.planning.sensitivity`). Of all candidates that reach the
target it chooses the schedule with the lowest predicted divergence.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..methods import Illava
from ..methods.schedules import Shares, late, middle
from ..models.layout import workload
from ..models.located import LocatedModules
from ..models.workload import Size, Workload
from .accelerator import AcceleratorRates
from .machine_speed import Rates
from .predict import Predictor, modules_of
from .recommendation import Candidate as Candidate
from .recommendation import Recommendation as Recommendation
from .sensitivity import PRESET, Placement, divergence
from .targets import TOLERANCE, collect_targets, describe, missed, shortfall
from .timing import Timing, timing
from .verdict import judged

THOUSANDTHS = range(28, 1000)
"""Budgets to try if ``keep`` is no target, from 1/36 on. Below 1/18 the divergence is extrapolated."""
ENCODER_DEPTHS = (None, 3 / 4, 2 / 3, 1 / 2, 5 / 12, 1 / 3, 1 / 4, 1 / 6)
"""None: the preset's three late steps."""
LLM_DEPTHS = (2 / 3, 1 / 2)
"""An earlier step has a larger divergence and saves little."""
HARDLY = 1.01
"""How much farther from unreachable targets a schedule may be to diverge less."""
ENCODER_SHARES = (0.0, 0.35, 0.5, 0.65, 0.75, 0.85, 1.0)


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
) -> Recommendation:
    """As :func:`plan`, for located modules, a workload and targets from :func:`collect_targets`.

    ``element_size``: bytes per element; default: that of the accelerator's rates, or of the model's weights.
    """
    if element_size is None and isinstance(rates, AcceleratorRates):
        element_size = rates.element_size
    predictor = Predictor(modules, work, element_size)
    times = None if rates is None else timing(predictor, rates)
    found, tried = _search(predictor, targets, times)
    if found.prediction.steps and times is not None:
        keep_all = _candidate(predictor, 1.0, PRESET, times)
        found = judged(found, tried, keep_all, lambda: _fastest(predictor, tried, times))
    return replace(found, reason=_with_note(found, modules, rates))


def _search(
    predictor: Predictor, targets: dict[str, float], times: Timing | None
) -> tuple[Recommendation, list[Candidate]]:
    """The schedule for the targets, whether or not merging pays, and the candidates it was chosen from."""
    modules = predictor.modules
    if "keep" in targets:
        keep = targets["keep"]
        found = [_candidate(predictor, keep, placement, times) for placement in _placements(modules, keep)]
        if len(targets) == 1:
            chosen = _candidate(predictor, keep, PRESET, times)
            reason = "the preset illava-best"
            return Recommendation(chosen, targets, True, reason, _alternatives(chosen, found)), found
    else:
        found = [_candidate(predictor, 1.0, PRESET, times)]
        if shortfall(found[0], targets) > TOLERANCE:
            found = [_largest_budget(predictor, at, targets, times) for at in _placements(modules, 0.5)]
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
    least = THOUSANDTHS[0] / 1000
    smallest = [_candidate(predictor, least, at, times) for at in _placements(predictor.modules, least)]
    return max((*smallest, *tried), key=lambda one: one.speedup)


def _largest_budget(
    predictor: Predictor, placement: Placement, targets: dict[str, float], times: Timing | None
) -> Candidate:
    """The candidate with the largest budget that reaches the targets; if none does, the smallest budget."""
    tried: dict[int, Candidate] = {}

    def reaches(thousandths: int) -> bool:
        tried[thousandths] = _candidate(predictor, thousandths / 1000, placement, times)
        return shortfall(tried[thousandths], targets) <= TOLERANCE

    # Costs rise with the budget: search for the first budget that misses the targets.
    least = THOUSANDTHS[0]
    if not reaches(least):
        return tried[least]
    first = bisect_left(THOUSANDTHS, True, key=lambda thousandths: not reaches(thousandths))
    return tried[THOUSANDTHS[first - 1]]


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
    found = [_largest_budget(predictor, at, eased, times) for at in _placements(predictor.modules, 0.5)]
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


def _placements(modules: LocatedModules, keep: float) -> Iterator[Placement]:
    """The placements to try, without those that give the same layers."""
    if keep == 1:
        yield PRESET
        return
    seen = set()
    for llm in LLM_DEPTHS:
        for encoder in ENCODER_DEPTHS:
            blocks, layers = _layers(modules, encoder, llm)
            shares = ENCODER_SHARES if layers else (1.0,)
            for share in shares:
                key = (tuple(blocks) if share else (), tuple(layers) if share < 1 else (), share)
                if key not in seen:
                    seen.add(key)
                    yield Placement(encoder, llm, share)


def method_at(modules: LocatedModules, keep: float, placement: Placement) -> Illava:
    """The preset at a budget, with its steps and their shares where ``placement`` says."""
    method = Illava.best(keep)
    if placement == PRESET or keep == 1:
        return method
    blocks, layers = _layers(modules, placement.encoder, placement.llm)
    return replace(
        method,
        encoder_layers=tuple(blocks) if placement.encoder_share else (),
        llm_layers=tuple(layers) if placement.encoder_share < 1 else (),
        encoder_share=placement.encoder_share,
    )


def _layers(modules: LocatedModules, encoder: float | None, llm: float) -> tuple[Shares, Shares]:
    return late(modules, llm) if encoder is None else middle(modules, encoder, llm)


def _candidate(predictor: Predictor, keep: float, placement: Placement, times: Timing | None) -> Candidate:
    modules = predictor.modules
    method = method_at(modules, keep, placement)
    if not _layers(modules, placement.encoder, placement.llm)[1]:
        # Without an LLM layer to merge before, the encoder does the whole reduction.
        placement = replace(placement, encoder_share=1.0)
    prediction = predictor.of(method)
    seconds = None if times is None else times(prediction)
    return Candidate(method, placement, prediction, divergence(keep, placement), seconds)


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
    if not found.met or one.placement.measured or not one.prediction.steps:
        return reason
    if not late(modules)[1]:
        return f"{reason}; the encoder does the whole reduction, since this LLM has no layer to merge before"
    placement = one.placement
    where = "late" if placement.encoder is None else f"after {placement.encoder:.0%} of its blocks"
    parts = [f"the encoder merges {where} and does {placement.encoder_share:.0%} of the reduction"]
    if placement.encoder_share < 1:
        parts.append(f"the LLM merges after {placement.llm:.0%} of its layers")
    return (
        f"{reason}; {', '.join(parts)}: at the same budget zoo/R's first token then moves farther from the "
        "plain model's than with the preset, or that was not measured; calibrate on your own images"
    )
