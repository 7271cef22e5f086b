"""Part "batches": answers per second by batch size, and the largest batch that fits, plain and merged."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

import illava
from illava.bench import run
from illava.bench.timing import measure as timed

from ..context import NINTH, SHORT, THIRD, Context, Row, schedules

PLAIN = "plain"
STEPS = 8
"""The largest batch is found to within an eighth of it."""
FILLED = 0.95
"""The share of a card's free memory that a predicted batch would take."""


def rows(context: Context) -> Iterable[Row]:
    """The stated batches, then the search."""
    settings = context.settings
    build = context.build_seconds(settings.shape)
    for number, batch in enumerate(settings.batches):
        whole = context.call_seconds(settings.shape, settings.size, batch, settings.answer)
        short = context.call_seconds(settings.shape, settings.size, batch, SHORT)
        # Warm-up, rounds, and a short call for memory, of three variants.
        calls = (1 + settings.batch_rounds) * whole + context.warm_ups * short
        seconds = 3 * calls + (build if number == 0 else 0)
        yield Row(f"batch {batch}", seconds, partial(at, context, batch), "batch" if number else "built")
    seconds = settings.search_seconds
    for label in (PLAIN, THIRD):
        yield Row(f"largest batch, {label}", seconds, partial(largest, context, label, seconds), "search")


def at(context: Context, batch: int) -> Mapping[str, Any]:
    """Plain, merged to a third and to a ninth in turn, at one batch size."""
    settings = context.settings
    model = context.model(settings.shape)
    methods = [schedules()[label] for label in (THIRD, NINTH)]
    context.warm_up(model, context.inputs(model, settings.size, batch), [None, *methods])
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

    The search is made with short answers, so that memory ends it and not the time. Raises RuntimeError if not
    even the first batch runs.
    """
    settings = context.settings
    trials = Trials(context, label, time.monotonic() + min(seconds, context.budget.left()))
    found, ended_by = search(
        trials.short, trials.time_for, max(settings.batches), settings.most, trials.predicted
    )
    if not found:
        # Raised, so that a further call tries again.
        raise RuntimeError(f"no batch ran: {'; '.join(trials.errors) or 'no time'}")
    # The cache of a whole answer is larger than that of a short one.
    fits, whole = found, None
    while fits and trials.time_for(fits) and (whole := trials.whole(fits)) is None:
        fits, ended_by = fits - max(1, fits // STEPS), "an error"
    return {
        "largest": fits,
        "ended_by": ended_by,
        "errors": trials.errors,
        "tried": {str(batch): seconds for batch, seconds in sorted(trials.took.items())},
        "answers_per_second": None if whole is None else fits / whole,
        "allocated_bytes": trials.peaks.get(found),
        "failure": None,
    }


class Trials:
    """Answers of growing batches of one variant until a deadline."""

    def __init__(self, context: Context, label: str, deadline: float) -> None:
        settings = context.settings
        self.context, self.deadline = context, deadline
        self.method = schedules().get(label)
        self.model = context.model(settings.shape)
        self.one = context.inputs(self.model, settings.size)
        self.took: dict[int, float] = {}
        """Seconds of the short answers, by batch size."""
        self.peaks: dict[int, int] = {}
        """Bytes that a short answer took on a card beside the weights."""
        self.errors: list[str] = []

    def short(self, batch: int) -> bool:
        """Whether a short answer of a batch fits."""
        _release(self.context)
        weights = self._allocated(highest=False)
        seconds = self._answer(batch, SHORT)
        if seconds is not None:
            self.took[batch] = seconds
            if self.context.device.type == "cuda":
                self.peaks[batch] = self._allocated(highest=True) - weights
        return seconds is not None

    def whole(self, batch: int) -> float | None:
        """Seconds of an answer of full length: the faster of two, if there is time for two."""
        _release(self.context)
        tokens = self.context.settings.answer
        first = self._answer(batch, tokens)
        if first is None or time.monotonic() + first > self.deadline:
            return first
        return min(first, self._answer(batch, tokens) or first)

    def time_for(self, batch: int) -> bool:
        """Whether there is time for a short answer. It takes as much longer as the batch is larger."""
        last = max(self.took, default=0)
        expected = self.took[last] * batch / last if last else 0.0
        return time.monotonic() + expected < self.deadline

    def predicted(self, fits: int) -> int | None:
        """The batch that would nearly fill a card, by the memory of one that fits."""
        if fits not in self.peaks:
            return None
        _release(self.context)
        free, _ = torch.cuda.mem_get_info(self.context.device)
        return int(FILLED * fits * free / self.peaks[fits])

    def _answer(self, batch: int, tokens: int) -> float | None:
        """Seconds of one answer of a batch; None if it does not fit."""
        try:
            with nullcontext() if self.method is None else illava.accelerate(self.model, self.method):
                return timed(self.model, self._inputs(batch), tokens, min_new_tokens=tokens).total
        except RuntimeError as error:
            # Not only memory ends it: some kernels have limits of their own.
            self.errors.append(str(error).partition("\n")[0][:300])
        return None

    def _inputs(self, batch: int) -> dict[str, Tensor]:
        """Repeated on the device: hundreds of pictures take long to make and to copy."""
        return {name: value.repeat(batch, *[1] * (value.dim() - 1)) for name, value in self.one.items()}

    def _allocated(self, highest: bool) -> int:
        """Bytes allocated on the card, or the most since this was last called without ``highest``."""
        if self.context.device.type != "cuda":
            return 0
        if highest:
            return torch.cuda.max_memory_allocated(self.context.device)
        torch.cuda.reset_peak_memory_stats(self.context.device)
        return torch.cuda.memory_allocated(self.context.device)


def search(
    attempt: Callable[[int], bool],
    time_for: Callable[[int], bool],
    start: int,
    most: int,
    predicted: Callable[[int], int | None] = lambda fits: None,
) -> tuple[int, str]:
    """The largest number for which ``attempt`` holds: upwards, then by halving the interval.

    Upwards to what is predicted from the largest that fits, but by an eighth at least; without a prediction
    by doubling. Returns the number and why it is not larger: "an error", "time" or "highest tried". 0 if not
    even ``start`` fits.
    """
    fits, number = 0, start
    while number <= most:
        if not time_for(number):
            return fits, "time"
        if not attempt(number):
            break
        fits, guess = number, predicted(number)
        number = 2 * fits if guess is None else max(min(guess, most), fits + max(1, fits // STEPS))
    else:
        return fits, "highest tried"
    low, high = fits, number
    while high - low > max(1, low // STEPS):
        middle = (low + high) // 2
        if not time_for(middle):
            return low, "time"
        low, high = (middle, high) if attempt(middle) else (low, middle)
    return low, "an error"


def _release(context: Context) -> None:
    """Give back the memory of the call before. That of a failed one is free only after its except clause."""
    gc.collect()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()
