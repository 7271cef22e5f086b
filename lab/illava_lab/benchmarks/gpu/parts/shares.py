"""The time that scoring, selection and merging take on the device, as shares of the stages they belong to."""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import illava
from illava.bench.clocks import Clock, clock_of
from illava.bench.timing import measure as timed
from illava.methods import steps
from illava.methods.steps import Step
from illava.ops import merging

SCORING, SELECTION, REDUCTION = "scoring", "selection", "reduction"
"""Observing attention; ranking by diversity; a whole reduction, with its selection and merging."""
Spans = dict[str, list[tuple[Any, Any]]]


def measure(
    model: nn.Module, inputs: Mapping[str, Tensor], method: illava.Method, calls: int
) -> dict[str, float]:
    """Shares of the time to first token: of scoring, of selection and of the reductions that include it.

    "own" is scoring and reductions together. Medians over ``calls`` calls, after one to warm up: the part
    "times" has called the method with these inputs before.
    """
    found: list[dict[str, float]] = []
    clock = clock_of(model)
    with illava.accelerate(model, method):
        for number in range(1 + calls):
            with recorded(clock) as spans:
                whole = timed(model, inputs, 1).ttft
            seconds = {kind: sum(clock.seconds(*s) for s in spans[kind]) for kind in spans}
            seconds["own"] = seconds[SCORING] + seconds[REDUCTION]
            if number:
                found.append({kind: value / whole for kind, value in seconds.items()})
    return {kind: statistics.median(one[kind] for one in found) for kind in found[0]}


@contextmanager
def recorded(clock: Clock) -> Iterator[Spans]:
    """Within the block, every call of the steps' functions is marked at its beginning and its end."""
    spans: Spans = {SCORING: [], SELECTION: [], REDUCTION: []}

    def marking(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                # Marks would become a part of the graph.
                return function(*args, **kwargs)
            began = clock.mark()
            try:
                return function(*args, **kwargs)
            finally:
                spans[kind].append((began, clock.mark()))

        return run

    with ExitStack() as stack:
        places = [
            *((REDUCTION, place, "reduced") for place in _users("reduced", steps.reduced)),
            *((SELECTION, merging, name) for name in _SELECT),
            *((SCORING, cls, name) for cls in _subclasses(Step) for name in _OBSERVE if name in cls.__dict__),
        ]
        for kind, place, name in places:
            original = getattr(place, name)
            stack.callback(setattr, place, name, original)
            setattr(place, name, marking(kind, original))
        yield spans


_SELECT = ("diverse_ranking", "select_diverse", "ranking_by_operations", "ranking_in_memory")
"""With and without kernels. A replayed graph calls none of them; its selection is part of the reduction."""
_OBSERVE = ("observe_encoder", "observe_llm")


def _users(name: str, function: Callable[..., Any]) -> list[Any]:
    """The modules of illava that imported a function by its name."""
    modules = [m for key, m in sys.modules.items() if key.startswith("illava.") and m is not None]
    return [module for module in modules if getattr(module, name, None) is function]


def _subclasses(cls: type) -> Iterator[type]:
    for one in cls.__subclasses__():
        yield one
        yield from _subclasses(one)
