"""Part "batches": answers per second by batch size, and the largest batch that fits, plain and merged."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

import illava
from illava.bench import run
from illava.bench.timing import measure as timed
from illava.methods import Method

from ..context import NINTH, THIRD, Context, Row, schedules

PLAIN = "plain"
STEPS = 8
"""The largest batch is found to within an eighth of it."""


def rows(context: Context) -> Iterable[Row]:
    """The stated batches, then the search."""
    settings = context.settings
    build = context.build_seconds(settings.shape)
    for number, batch in enumerate(settings.batches):
        whole = context.call_seconds(settings.shape, settings.size, batch, settings.answer)
        # Warm-up, rounds, and a short call for memory, of three variants.
        seconds = 3 * (1.2 + settings.batch_rounds) * whole + (build if number == 0 else 0)
        yield Row(f"batch {batch}", seconds, partial(at, context, batch))
    seconds = settings.search_seconds
    for label in (PLAIN, THIRD):
        yield Row(f"largest batch, {label}", seconds, partial(largest, context, label, seconds))


def at(context: Context, batch: int) -> Mapping[str, Any]:
    """Plain, merged to a third and to a ninth in turn, at one batch size."""
    settings = context.settings
    model = context.model(settings.shape)
    (found,) = run.run(
        model,
        lambda size: context.inputs(model, settings.size, size),
        [run.Variant(label, schedules()[label]) for label in (THIRD, NINTH)],
        [batch],
        settings.answer,
        settings.batch_rounds,
    )
    return found


def largest(context: Context, label: str, seconds: float) -> Mapping[str, Any]:
    """The largest batch of one variant that fits, and its answers per second.

    Raises RuntimeError if not even the first one runs.
    """
    settings = context.settings
    model = context.model(settings.shape)
    method = schedules().get(label)
    deadline = time.monotonic() + min(seconds, context.budget.left())
    took: dict[int, float] = {}
    errors: list[str] = []

    def attempt(batch: int) -> bool:
        try:
            took[batch] = _answer(context, model, method, batch)
        except RuntimeError as error:
            # Not only memory ends it: some kernels have limits of their own.
            errors.append(str(error).partition("\n")[0][:300])
        _release(context)
        return batch in took

    def time_for(batch: int) -> bool:
        # A batch takes about as long in terms of another as it is larger.
        last = max(took, default=0)
        expected = took[last] * batch / last if last else 0.0
        return time.monotonic() + expected < deadline

    fits, ended_by = search(attempt, time_for, max(settings.batches), settings.most)
    result = {
        "largest": fits,
        "ended_by": ended_by,
        "errors": errors,
        "tried": {str(batch): seconds for batch, seconds in sorted(took.items())},
    }
    if fits not in took:
        # Raised, so that a further call tries again.
        raise RuntimeError(f"no batch ran: {'; '.join(errors) or 'no time'}")
    # Once more, now that the allocator has seen this size.
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    again = [_answer(context, model, method, fits)] if time_for(fits) else []
    memory = torch.cuda.max_memory_allocated() if context.device.type == "cuda" else None
    speed = fits / min(took[fits], *again)
    return {**result, "answers_per_second": speed, "allocated_bytes": memory, "failure": None}


def search(
    attempt: Callable[[int], bool], time_for: Callable[[int], bool], start: int, most: int
) -> tuple[int, str]:
    """The largest number for which ``attempt`` holds: by doubling, then by halving the interval.

    Returns it and why it is not larger: "an error", "time" or "highest tried". 0 if not even ``start`` fits.
    """
    fits, number = 0, start
    while number <= most:
        if not time_for(number):
            return fits, "time"
        if not attempt(number):
            break
        fits, number = number, 2 * number
    else:
        return fits, "highest tried"
    low, high = fits, number
    while high - low > max(1, low // STEPS):
        middle = (low + high) // 2
        if not time_for(middle):
            return low, "time"
        low, high = (middle, high) if attempt(middle) else (low, middle)
    return low, "an error"


def _answer(context: Context, model: nn.Module, method: Method | None, batch: int) -> float:
    """Seconds of one answer of a batch. Raises RuntimeError if it does not fit."""
    tokens = context.settings.answer
    with nullcontext() if method is None else illava.accelerate(model, method):
        inputs = context.inputs(model, context.settings.size, batch)
        return timed(model, inputs, tokens, min_new_tokens=tokens).total


def _release(context: Context) -> None:
    """Give memory back that a failed call held: only outside of its except clause are its tensors free."""
    gc.collect()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()
