"""Measure a model and its merged variants: time by stage, throughput, memory, and speed-up / FLOP bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..api import accelerate
from ..errors import UnsupportedError
from ..io.pictures import InputError
from ..methods import Method
from ..models.dimensions import llm_dimensions
from ..models.located import locate
from ..models.weights import activation_size
from ..planning import cost
from ..planning.cost import Cost
from ..report.report import Report
from .memory import largest_batch, peak_bytes
from .timing import Timing, interleave, measure, median_interval, ratios, spread

PLAIN = "plain"
PARTS = ("encoder", "prefill", "ttft", "decode_per_token", "total")
"""The fields of a Timing that are compared."""
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Variant:
    """A method and its name in tables."""

    label: str
    method: Method


def check(model: nn.Module, variants: Sequence[Variant]) -> None:
    """Raise InputError unless every method supports the model, which may be on the meta device."""
    for variant in variants:
        try:
            accelerate(model, variant.method).remove()
        except (ValueError, UnsupportedError) as error:
            raise InputError(f"{variant.label}: {error}") from error


def runs_of(variants: Sequence[Variant], batches: Sequence[int], rounds: int) -> int:
    """How often :func:`run` calls ``generate``: once a round, once to warm up and once to measure memory."""
    return len(batches) * (1 + len(variants)) * (rounds + 2)


def run(
    model: nn.Module,
    prompt: Callable[[int], Inputs],
    variants: Sequence[Variant],
    batches: Sequence[int],
    new_tokens: int,
    rounds: int,
    advance: Callable[[int], None] = lambda runs: None,
) -> list[dict[str, Any]]:
    """Measure the plain model and all variants in turn, for each batch size.

    Args:
        prompt: a function from a batch size to the inputs of ``generate`` on the model's device.
        new_tokens: the length of every answer.
        rounds: number of timed rounds, after one warm-up round; memory is measured in a separate run.
        advance: called after each ``generate``.

    Returns JSON-ready ``plain`` and ``variants`` for each batch size, as :func:`figures` returns them. Raises
    ValueError without variants, whose reports hold the plain model's cost, UnsupportedError if a method does
    not support a prompt.
    """
    if not variants:
        raise ValueError("give at least one variant to compare the plain model with")
    return [_run_batch(model, prompt(size), size, variants, new_tokens, rounds, advance) for size in batches]


def _run_batch(
    model: nn.Module,
    inputs: Inputs,
    batch: int,
    variants: Sequence[Variant],
    new_tokens: int,
    rounds: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    device = next(model.parameters()).device
    methods = {PLAIN: None, **{variant.label: variant.method for variant in variants}}
    reports: dict[str, Report] = {}

    def generate(label: str, tokens: int) -> Timing:
        method = methods[label]
        with nullcontext() if method is None else accelerate(model, method) as handle:
            timing = measure(model, inputs, tokens, min_new_tokens=tokens, num_beams=1)
            if handle is not None and label not in reports:
                reports[label] = handle.report
        advance(1)
        return timing

    timings = interleave(
        {label: lambda label=label: generate(label, new_tokens) for label in methods}, rounds
    )
    # Include one decoded token, because growing the cache may copy it.
    peaks = {
        label: peak_bytes(lambda label=label: generate(label, min(2, new_tokens)), device)
        for label in methods
    }
    plain_cost = next(iter(reports.values())).plain_cost
    out: dict[str, Any] = {
        "batch": batch,
        "prompt_tokens": inputs["input_ids"].shape[1],
        "plain": figures(timings[PLAIN], batch, peaks[PLAIN], plain_cost),
        "variants": [],
    }
    for variant in variants:
        label, report = variant.label, reports[variant.label]
        out["variants"].append(
            {
                "label": label,
                "method": variant.method.to_dict(),
                "visual_tokens": report.visual_tokens,
                "final_tokens": report.final_tokens,
                "average_tokens": report.average_tokens,
                **figures(timings[label], batch, peaks[label], report.cost),
                "kv_ratio": report.cost.kv_bytes / report.plain_cost.kv_bytes,
                "faster": against_plain(timings[PLAIN], timings[label], report),
            }
        )
    return out


def figures(timings: Sequence[Timing], batch: int, peak: int | None, costs: Cost) -> dict[str, Any]:
    """The measurements of one variant, JSON-ready, NaN as null.

    Returns ``seconds`` by part and round, ``answers_per_second`` (median, low, high of batch size / total
    time), ``peak_bytes`` above what was allocated before, and ``flops`` by stage and ``kv_bytes`` after
    prefill of the whole batch.
    """
    return {
        "seconds": {part: [_number(getattr(t, part)) for t in timings] for part in PARTS},
        "answers_per_second": vars(spread([batch / t.total for t in timings])),
        "peak_bytes": peak,
        "flops": _stages(costs),
        "kv_bytes": costs.kv_bytes,
    }


def _stages(costs: Cost) -> dict[str, int]:
    """FLOPs by timed stage; the projector is timed as part of the encoder."""
    return {
        "encoder": costs.encoder + costs.projector,
        "prefill": costs.prefill,
        "ttft": costs.total,
    }


def against_plain(plain: Sequence[Timing], fast: Sequence[Timing], report: Report) -> dict[str, Any]:
    """The speed-up of each part, paired by round, and its FLOP bound.

    Returns for each part ``median``, ``low``, ``high``, ``interval`` (95 % for the median; null below six
    rounds), ``flops`` (the bound, plain FLOPs / merged FLOPs; null where the cost model has none) and
    ``of_flops`` (median / bound).
    """
    before, after = _stages(report.plain_cost), _stages(report.cost)
    out: dict[str, Any] = {}
    for part in PARTS:
        values = ratios(plain, fast, part)
        found = {name: _number(value) for name, value in vars(spread(values)).items()}
        predicted = before[part] / after[part] if part in before else None
        median = found["median"]
        known = predicted is not None and median is not None
        out[part] = {
            **found,
            "interval": median_interval(values) if median is not None else None,
            "flops": predicted,
            "of_flops": median / predicted if known else None,  # type: ignore[operator]
        }
    return out


def fits(
    found: Sequence[Mapping[str, Any]], model: nn.Module, weights: int, budget: int, new_tokens: int
) -> dict[str, int | None]:
    """The largest batch that would fit in ``budget`` bytes, by label: computed, not run.

    Counts the weights once and, for each row, the keys and values of a prompt and its whole answer and the
    rest of the peak memory per row of the largest batch measured. None if the peak is unknown.
    """
    most = max(found, key=lambda part: part["batch"])
    modules, batch = locate(model), most["batch"]
    layers = sum(not recurrent for recurrent in modules.recurrent)
    element = activation_size(modules.llm)
    answer = new_tokens * cost.kv_bytes(llm_dimensions(modules.config), [1] * layers, element)
    out: dict[str, int | None] = {}
    for label, row in ((PLAIN, most["plain"]), *((row["label"], row) for row in most["variants"])):
        if row["peak_bytes"] is None:
            out[label] = None
            continue
        beside = max(0, row["peak_bytes"] - row["kv_bytes"]) / batch
        out[label] = largest_batch(budget, weights, row["kv_bytes"] / batch + answer, beside)
    return out


def _number(value: float) -> float | None:
    """Replace NaN, which JSON does not have, by None."""
    return None if math.isnan(value) else value
