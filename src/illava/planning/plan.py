"""From a wish to a schedule: a budget of tokens or bytes, a speed-up or a time to the first token.

The planner knows what every schedule of one step in each stage costs on the model at hand
(:mod:`illava.planning.predict`), and what going early and hard has cost in quality (:mod:`illava.planning.sensitivity`). Of all
schedules that grant the wish it takes the one that the rule expects least harm of.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..methods import Illava
from ..methods.checks import check_share
from ..methods.schedules import middle
from ..models.layout import workload
from ..models.located import LocatedModules
from ..models.workload import Size, Workload
from .machine_speed import Rates, Seconds
from .predict import Prediction, Predictor, modules_of
from .sensitivity import PRESET, Where, divergence

THOUSANDTHS = range(28, 1000)
"""Budgets that are tried where none is given, from 1/36 on; what harm is expected below 1/18 is a guess."""
ENCODER_PLACES = (2 / 3, 1 / 2, 5 / 12, 1 / 3, 1 / 4, 1 / 6)
LLM_PLACES = (2 / 3, 1 / 2)
"""No earlier: that costs seventeen times the divergence, and saves least."""
ENCODER_SHARES = (0.0, 0.35, 0.5, 0.65, 0.8, 1.0)
ENOUGH = 1 + 1e-9
"""Up to this :func:`_shortfall` all wishes are granted."""


@dataclass(frozen=True)
class Candidate:
    """A schedule, what it will cost and what the rule expects of it."""

    method: Illava
    where: Where
    prediction: Prediction
    divergence: float
    """Expected, in nats of the first token; see :mod:`illava.planning.sensitivity`."""
    seconds: tuple[Seconds, Seconds] | None = None
    """Of the schedule and of the plain model, where the machine was measured."""

    @property
    def speedup(self) -> float:
        """How many times sooner the first token comes: in seconds where they are known, else in FLOPs."""
        if self.seconds is None:
            return self.prediction.speedup
        merged, plain = self.seconds
        return plain.ttft / merged.ttft


@dataclass(frozen=True)
class Recommendation:
    """The schedule that the planner settled on."""

    chosen: Candidate
    wishes: dict[str, float]
    met: bool
    """Whether all wishes are granted; otherwise this is the nearest that is possible."""
    reason: str
    equals: tuple[Candidate, ...] = ()
    """Others that grant as much and cost within 5 % as much, for :mod:`illava.evaluation.calibrate` to choose from."""

    @property
    def method(self) -> Illava:
        """What to hand to :func:`illava.accelerate`."""
        return self.chosen.method

    @property
    def prediction(self) -> Prediction:
        """What it will bring."""
        return self.chosen.prediction

    def __str__(self) -> str:
        p = self.prediction
        steps = [f"{s.stage} {s.layer}: {s.before} -> {s.after}" for s in p.steps]
        return "\n".join(
            [
                self.reason,
                f"{p.final_tokens} of {p.visual_tokens} visual tokens left at the end, "
                f"{p.average_tokens:.1f} on average; {p.speedup:.2f}x fewer FLOPs up to the first token, "
                f"{p.plain_cost.kv_bytes / p.cost.kv_bytes:.2f}x fewer KV bytes",
                *steps,
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        seconds = self.chosen.seconds
        return {
            "method": self.method.to_dict(),
            "wishes": self.wishes,
            "met": self.met,
            "reason": self.reason,
            "speedup": self.chosen.speedup,
            "expected_divergence": self.chosen.divergence,
            "seconds": None if seconds is None else {"merged": vars(seconds[0]), "plain": vars(seconds[1])},
            "prediction": self.prediction.to_dict(),
        }


def plan(
    model: Any,
    keep: float | None = None,
    speedup: float | None = None,
    kv_bytes: int | None = None,
    ttft_ms: float | None = None,
    *,
    picture_size: int | Size = 672,
    pictures: int = 1,
    frames: int = 0,
    prompt_tokens: int = 47,
    batch: int = 1,
    rates: Rates | None = None,
) -> Recommendation:
    """Find the schedule that grants a wish at the least harm; several wishes are all to be granted.

    Args:
        model: a transformers VLM, or its config alone.
        keep: final visual tokens / all, in (0, 1]. On its own: what ``accelerate(model, keep=...)`` does.
        speedup: how many times sooner the first token is to come, at least: in FLOPs, or in seconds with
            ``rates``.
        kv_bytes: bytes of keys and values after the prefill, over the batch, at most.
        ttft_ms: milliseconds to the first token, at most; needs ``rates``.
        picture_size, pictures, frames, prompt_tokens, batch: the prompt; see
            :func:`illava.models.layout.workload`.
        rates: how fast this machine is on this model, from :func:`illava.planning.machine_speed.measure_rates`.

    Raises ValueError for no wish or one out of range, UnsupportedError for a model illava does not know.
    """
    wishes = wishes_of(keep, speedup, kv_bytes, ttft_ms)
    if ttft_ms is not None and rates is None:
        raise ValueError("ttft_ms needs rates, the speed of this machine: rates=measure_rates(model)")
    modules = modules_of(model)
    work = workload(modules, picture_size, pictures, frames, prompt_tokens, batch)
    return plan_on(modules, work, wishes, rates)


def wishes_of(
    keep: float | None, speedup: float | None, kv_bytes: int | None, ttft_ms: float | None
) -> dict[str, float]:
    """Those that are given, by name. Raises ValueError for none and for one out of range."""
    given = {"keep": keep, "speedup": speedup, "kv_bytes": kv_bytes, "ttft_ms": ttft_ms}
    wishes = {name: float(value) for name, value in given.items() if value is not None}
    if not wishes:
        raise ValueError("give a wish: keep, speedup, kv_bytes or ttft_ms")
    if keep is not None:
        check_share("keep", keep)
    for name, value in wishes.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}")
        if value <= 0 or (name == "speedup" and value < 1):
            least = "at least 1" if name == "speedup" else "above 0"
            raise ValueError(f"{name} must be {least}, got {value:g}")
    return wishes


def plan_on(
    modules: LocatedModules,
    work: Workload,
    wishes: dict[str, float],
    rates: Rates | None = None,
    element_size: int | None = None,
) -> Recommendation:
    """As :func:`plan`, for parts and a workload already at hand and wishes that were checked.

    ``element_size``: bytes of a number; default: as the model's weights have it.
    """
    predictor = Predictor(modules, work, element_size)
    if set(wishes) == {"keep"}:
        chosen = _candidate(predictor, wishes["keep"], PRESET, rates)
        reason = "the preset illava-best: halfway through both stages, the best of what was measured"
        found = [
            _candidate(predictor, wishes["keep"], where, rates) for where in _places(modules, wishes["keep"])
        ]
        return Recommendation(
            chosen, wishes, True, _with_note(reason, chosen, modules), _equals(chosen, found)
        )
    if "keep" in wishes:
        keep = wishes["keep"]
        found = [_candidate(predictor, keep, where, rates) for where in _places(modules, keep)]
    else:
        found = [_candidate(predictor, 1.0, PRESET, rates)]
        if _shortfall(found[0], wishes) > ENOUGH:
            found = [_mildest(predictor, where, wishes, rates) for where in _places(modules, 0.5)]
    granted = [one for one in found if _shortfall(one, wishes) <= ENOUGH]
    if not granted:
        chosen = min(found, key=lambda one: (_shortfall(one, wishes), one.divergence))
        reason = f"not possible: {_said(chosen, wishes)}; this is the nearest"
        return Recommendation(chosen, wishes, False, reason)
    if found[0].method.keep == 1 and granted == found:
        reason = f"nothing needs to merge: {_said(found[0], wishes)}"
        return Recommendation(found[0], wishes, True, reason)
    # Of schedules that are as good by the rule the fastest.
    chosen = min(granted, key=lambda one: (round(math.log(one.divergence + 1e-9), 1), -one.speedup))
    plural = "s that grant" if len(granted) != 1 else " that grants"
    reason = f"of {len(granted)} schedule{plural} it, the least harmful by the rule: {_said(chosen, wishes)}"
    return Recommendation(chosen, wishes, True, _with_note(reason, chosen, modules), _equals(chosen, granted))


def _mildest(predictor: Predictor, where: Where, wishes: dict[str, float], rates: Rates | None) -> Candidate:
    """What keeps most of all that grants the wishes at a place; the hardest where none does."""
    tried: dict[int, Candidate] = {}

    def grants(thousandths: int) -> bool:
        tried[thousandths] = _candidate(predictor, thousandths / 1000, where, rates)
        return _shortfall(tried[thousandths], wishes) <= ENOUGH

    # The first that does not: what keeps more costs more.
    least = THOUSANDTHS[0]
    if not grants(least):
        return tried[least]
    first = bisect_left(THOUSANDTHS, True, key=lambda thousandths: not grants(thousandths))
    return tried[THOUSANDTHS[first - 1]]


def _equals(chosen: Candidate, others: list[Candidate]) -> tuple[Candidate, ...]:
    """Those that cost within 5 % as much to the first token."""
    total = chosen.prediction.cost.total
    return tuple(
        one
        for one in others
        if one.method != chosen.method and abs(one.prediction.cost.total / total - 1) <= 0.05
    )


def _places(modules: LocatedModules, keep: float) -> Iterator[Where]:
    """Places to try, without those that come to the same."""
    if keep == 1:
        yield PRESET
        return
    seen = set()
    for llm in LLM_PLACES:
        for encoder in ENCODER_PLACES:
            blocks, layers = middle(modules, encoder, llm)
            shares = ENCODER_SHARES if layers else (1.0,)
            for share in shares:
                key = (tuple(blocks) if share else (), tuple(layers) if share < 1 else (), share)
                if key not in seen:
                    seen.add(key)
                    yield Where(encoder, llm, share)


def _candidate(predictor: Predictor, keep: float, where: Where, rates: Rates | None) -> Candidate:
    modules = predictor.modules
    method = Illava.best(keep)
    blocks, layers = middle(modules, where.encoder, where.llm)
    if where != PRESET and keep < 1:
        method = replace(
            method,
            encoder_layers=tuple(blocks) if where.encoder_share else (),
            llm_layers=tuple(layers) if where.encoder_share < 1 else (),
            encoder_share=where.encoder_share,
        )
    if not layers:
        # What the preset comes to where the LLM has no layer to merge before.
        where = replace(where, encoder_share=1.0)
    prediction = predictor.of(method)
    seconds = None if rates is None else tuple(rates.seconds(course) for course in prediction.courses)
    return Candidate(method, where, prediction, divergence(keep, where), seconds)  # type: ignore[arg-type]


_MEASURES: dict[str, Callable[[Candidate], float]] = {
    "speedup": lambda one: one.speedup,
    "kv_bytes": lambda one: one.prediction.cost.kv_bytes,
    "ttft_ms": lambda one: 1e3 * one.seconds[0].ttft if one.seconds else math.inf,
}


def _shortfall(one: Candidate, wishes: dict[str, float]) -> float:
    """How far the wish that is granted least is off, as a ratio; up to 1 all are granted."""
    worst = 0.0
    for name, measure in _MEASURES.items():
        if name in wishes:
            value, wish = measure(one), wishes[name]
            worst = max(worst, wish / value if name == "speedup" else value / wish)
    return worst


def _said(one: Candidate, wishes: dict[str, float]) -> str:
    said = []
    if "speedup" in wishes:
        unit = "by this machine's rates" if one.seconds else "by FLOPs"
        said.append(f"the first token {one.speedup:.2f}x sooner {unit}, {wishes['speedup']:g}x asked for")
    if "kv_bytes" in wishes:
        said.append(f"{one.prediction.cost.kv_bytes:,} KV bytes, {wishes['kv_bytes']:,.0f} asked for")
    if "ttft_ms" in wishes and one.seconds:
        said.append(f"{1e3 * one.seconds[0].ttft:.0f} ms to the first token, {wishes['ttft_ms']:g} asked for")
    return "; ".join(said)


def _with_note(reason: str, one: Candidate, modules: LocatedModules) -> str:
    if one.seconds is not None:
        # Rates are those of products and attention, without calls in between and merging itself.
        reason += "; small models are further off than large ones: measure it with illava bench"
    if one.where.measured or not one.prediction.steps:
        return reason
    if not middle(modules)[1]:
        return f"{reason}; the encoder does all of it, since this LLM has no layer to merge before"
    early = f"after {one.where.encoder:.0%} of the encoder, which does {one.where.encoder_share:.0%} of it"
    return (
        f"{reason}. It merges {early}: earlier or harder than what the shipped models took without "
        "significant loss; calibrate it on pictures of your own"
    )
