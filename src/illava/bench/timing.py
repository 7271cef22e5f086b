"""Where the time of a ``generate`` goes: image encoder, prefill, decoding."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..models.located import locate


@dataclass(frozen=True)
class Timing:
    """Seconds of one ``generate``, and what it made."""

    encoder: float
    """In the image encoder and the projector."""
    prefill: float
    """In the LLM's first forward, over the whole prompt."""
    decode: float
    """In all later forwards of the LLM, one for each new token after the first."""
    ttft: float
    """From the start of ``generate`` to the end of the forward that gives the first token's logits."""
    total: float
    """All of ``generate``; what exceeds the sum of the parts is the head, sampling and bookkeeping."""
    new_tokens: int
    """New tokens of each sequence."""
    output: Tensor = field(repr=False, compare=False)
    """(B, prompt + new) int64 token ids, as ``generate`` returned them."""

    @property
    def decode_per_token(self) -> float:
        """Seconds of the LLM for a token after the first; NaN when there was only one."""
        return self.decode / (self.new_tokens - 1) if self.new_tokens > 1 else math.nan

    def to_dict(self) -> dict[str, float | int]:
        """JSON-ready seconds and the number of new tokens."""
        names = ("encoder", "prefill", "decode", "ttft", "total", "new_tokens")
        return {name: getattr(self, name) for name in names}


class _Clock:
    """Adds up the seconds between entering and leaving modules; the outermost of nested ones counts."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.depth, self.began = device, 0, 0.0
        self.laps: list[float] = []
        """Seconds of each outermost call."""

    def now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def enter(self, *_: Any) -> None:
        if self.depth == 0:
            self.began = self.now()
        self.depth += 1

    def leave(self, *_: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.laps.append(self.now() - self.began)


def measure(
    model: nn.Module, inputs: Mapping[str, Any], max_new_tokens: int, **generate_kwargs: Any
) -> Timing:
    """Run ``model.generate`` greedily once and time its parts, plain or accelerated.

    Only hooks are used, and they are taken off again whatever happens. On an accelerator the clock waits
    for the device at the start and the end of every part, so the total is a little above an unmeasured
    run's. Keyword arguments go to ``generate`` and may override ``do_sample=False``.

    Args:
        inputs: what the processor returned, on the model's device: one prompt or a padded batch.

    Raises UnsupportedError for a model whose parts illava does not know.
    """
    modules = locate(model)
    device = next(model.parameters()).device
    encoder, llm = _Clock(device), _Clock(device)
    first: list[float] = []

    def note_first(*_: Any) -> None:
        if not first and llm.laps:
            first.append(llm.now())

    # First in and last out, so that what an accelerated model does in its hooks counts as well.
    handles = []
    try:
        for module, clock in ((modules.encoder, encoder), (modules.projector, encoder), (modules.llm, llm)):
            handles.append(module.register_forward_pre_hook(clock.enter, prepend=True))
            handles.append(module.register_forward_hook(clock.leave))
        handles.append(model.register_forward_hook(note_first))
        start = llm.now()
        output = model.generate(
            **inputs, **{"max_new_tokens": max_new_tokens, "do_sample": False, **generate_kwargs}
        )  # type: ignore[operator]
        total = llm.now() - start
    finally:
        for handle in handles:
            handle.remove()
    return Timing(
        encoder=sum(encoder.laps),
        prefill=llm.laps[0],
        decode=sum(llm.laps[1:]),
        ttft=first[0] - start,
        total=total,
        new_tokens=output.shape[1] - inputs["input_ids"].shape[1],
        output=output,
    )


@contextmanager
def hook_seconds(model: nn.Module) -> Iterator[list[float]]:
    """Note the seconds that every call of a hook now on ``model``'s modules takes, until the block ends.

    On an accelerated model that is what acceleration itself costs on the CPU's side; what a hook only
    enqueues on an accelerator is not waited for. Scores that are computed inside attention do not count.
    """
    seconds: list[float] = []

    def timed(hook: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return hook(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - began)

        return run

    tables = [table for m in model.modules() for table in (m._forward_pre_hooks, m._forward_hooks)]
    before = [dict(table) for table in tables]
    try:
        for table in tables:
            for key, hook in table.items():
                table[key] = timed(hook)
        yield seconds
    finally:
        for table, hooks in zip(tables, before, strict=True):
            # Hooks may have gone meanwhile, or come: only those that are still there are put back.
            table.update({key: hook for key, hook in hooks.items() if key in table})


def interleave(
    runs: Mapping[str, Callable[[], Timing]], rounds: int, warmup: int = 1
) -> dict[str, list[Timing]]:
    """Call every run once a round, in turn, so that a machine that slows down slows all of them.

    The order turns round from one round to the next: a b, b a, a b. The first ``warmup`` rounds are not
    part of the result. Raises ValueError unless there is at least one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    timings: dict[str, list[Timing]] = {name: [] for name in runs}
    for number in range(warmup + rounds):
        for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
            timing = runs[name]()
            if number >= warmup:
                timings[name].append(timing)
    return timings


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, and how far they lay apart."""

    median: float
    low: float
    """The smallest."""
    high: float
    """The largest."""


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum; all NaN if any value is. Raises ValueError when there are none."""
    if not values:
        raise ValueError("there are no values to take the median of")
    if any(math.isnan(value) for value in values):
        return Spread(math.nan, math.nan, math.nan)
    return Spread(statistics.median(values), min(values), max(values))


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Interval that holds the true median with probability ``level`` or more, whatever the distribution.

    Between the k-th smallest and the k-th largest value, for the largest k at which a fair coin, thrown once
    a value, comes up heads fewer than k times with probability (1 - level) / 2 at most (the sign test).
    None when there are too few values: 95 % takes six.
    """
    n, k, below = len(values), 0, 0.0
    while (below := below + math.comb(n, k) / 2**n) <= (1 - level) / 2:
        k += 1
    ordered = sorted(values)
    return (ordered[k - 1], ordered[n - k]) if k else None


def ratio(before: Sequence[Timing], after: Sequence[Timing], part: str) -> Spread:
    """How many times faster ``after`` is than ``before``, round by round.

    Args:
        part: a field of Timing that holds seconds, or ``decode_per_token``.

    Rounds are paired first because neighbours in time share the machine's mood. NaN where ``after`` took
    no time. Raises ValueError when the two differ in length.
    """
    return spread(ratios(before, after, part))


def ratios(before: Sequence[Timing], after: Sequence[Timing], part: str) -> list[float]:
    """What :func:`ratio` sums up, one value a round."""
    pairs = [(getattr(a, part), getattr(b, part)) for a, b in zip(before, after, strict=True)]
    return [slow / fast if fast else math.nan for slow, fast in pairs]
