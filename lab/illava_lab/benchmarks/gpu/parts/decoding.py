"""Part "decoding": tokens per second with a growing cache, and with a static cache and a compiled step.

``generate`` compiles the decoding step of a static cache by itself; with the mode "reduce-overhead" it is
replayed as a CUDA graph. The plain and the merged model are two copies, since hooks that come and go would
make it compile again.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import CompileConfig, LogitsProcessor, LogitsProcessorList

import illava
from illava.bench.clocks import Clock, clock_of
from illava.bench.timing import spread

from ..context import THIRD, Context, Row, schedules

PLAIN = "plain"
COMPILE = 80
"""Seconds predicted for compiling the steps of both copies on a card."""
DYNAMIC, GRAPHS, COMPILED = "dynamic cache", "static cache, CUDA graphs", "static cache, compiled"
MODES = {GRAPHS: "reduce-overhead", COMPILED: "default"}
"""The modes of ``torch.compile``."""


def rows(context: Context) -> Iterable[Row]:
    """One row for each kind of decoding."""
    settings = context.settings
    whole = context.call_seconds(settings.shape, settings.size, 1, settings.decoded)
    calls = 2 * (_warm_ups(context) + settings.decoding_rounds) * whole
    seconds = calls + context.build_seconds(settings.shape)
    yield Row(DYNAMIC, seconds, partial(measure, context, None), "dynamic")
    for label, mode in MODES.items():
        compiling = 5 if settings.rehearsal else COMPILE
        yield Row(label, calls + compiling, partial(measure, context, mode), "compiled")


def _warm_ups(context: Context) -> int:
    """A compiled step is traced in the first call and replayed from the second on, also on a CPU."""
    return max(2, context.warm_ups)


class Marks(LogitsProcessor):
    """Marks every new token. It is called between the passes of the model, outside of what is compiled."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.marks: list[Any] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.marks.append(self.clock.mark())
        return scores


def measure(context: Context, mode: str | None) -> Mapping[str, Any]:
    """Tokens per second after the first, plain and merged to a third in turn."""
    settings = context.settings
    model = context.model(settings.shape)
    inputs = context.inputs(model, settings.size)
    merged = copy.deepcopy(model)
    options = {} if mode is None else compiling(context, mode)
    torch._dynamo.reset()
    counters.clear()
    try:
        with illava.accelerate(merged, schedules()[THIRD]):
            found, first = _in_turn(context, {PLAIN: model, THIRD: merged}, inputs, options)
    finally:
        # Compiled code holds on to the models.
        model.__dict__.pop("_compiled_call", None)
        graphs, breaks = counters["stats"].get("unique_graphs", 0), dict(counters["graph_break"])
        torch._dynamo.reset()
    speeds = {label: [_speed(steps) for steps in calls] for label, calls in found.items()}
    ratios = [merged / plain for plain, merged in zip(speeds[PLAIN], speeds[THIRD], strict=True)]
    return {
        "tokens_per_second": {label: vars(spread(values)) for label, values in speeds.items()},
        # Where a graph is captured anew for each answer, its median step is faster than the mean.
        "median_step": {
            label: statistics.median([step for steps in calls for step in steps])
            for label, calls in found.items()
        },
        "faster": vars(spread(ratios)),
        "warm_up_seconds": first,
        "backend": None if mode is None else settings.compile_backend,
        "graphs": graphs,
        "graph_breaks": {str(reason)[:200]: count for reason, count in breaks.items()},
        "failure": "nothing was compiled" if mode is not None and not graphs else None,
    }


def _in_turn(
    context: Context,
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    options: Mapping[str, Any],
) -> tuple[dict[str, list[list[float]]], dict[str, float]]:
    """Seconds of the steps of each answer, and seconds of warming up, by model."""
    settings = context.settings
    first: dict[str, float] = {}
    for label, one in models.items():
        began = time.monotonic()
        for _ in range(_warm_ups(context)):
            _steps(one, inputs, settings.decoded, options)
        first[label] = time.monotonic() - began
    found: dict[str, list[list[float]]] = {label: [] for label in models}
    for _ in range(settings.decoding_rounds):
        for label, one in models.items():
            found[label].append(_steps(one, inputs, settings.decoded, options))
    return found, first


def _speed(steps: list[float]) -> float:
    """Tokens per second."""
    return len(steps) / sum(steps)


def compiling(context: Context, mode: str) -> dict[str, Any]:
    """The arguments of ``generate`` for a static cache and a compiled decoding step."""
    backend = context.settings.compile_backend
    # Only inductor has modes. Constant shapes: otherwise the step compiled second, for another length, would
    # be compiled for any length.
    config = CompileConfig(backend=backend, mode=mode if backend == "inductor" else None, dynamic=False)
    # On a CPU generate() compiles only when it is told to.
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


def _steps(
    model: nn.Module, inputs: Mapping[str, Tensor], tokens: int, options: Mapping[str, Any]
) -> list[float]:
    """Seconds from each token of one answer to the next."""
    clock = clock_of(model)
    processor = Marks(clock)
    clock.synchronize()
    model.generate(  # type: ignore[operator]
        **inputs,
        **options,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        logits_processor=LogitsProcessorList([processor]),
    )
    marks = processor.marks
    assert len(marks) == tokens
    return [clock.seconds(*pair) for pair in itertools.pairwise(marks)]
