"""The time that ``generate`` spends in the image encoder, in prefill and in decoding."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..models.located import locate
from .clocks import Clock, clock_of


@dataclass(frozen=True)
class Timing:
    """Seconds of one call of ``generate``, and its output."""

    encoder: float
    """Image encoder and projector."""
    prefill: float
    """The LLM's first forward pass, over the whole prompt."""
    decode: float
    """All later forward passes of the LLM, one for each new token after the first."""
    ttft: float
    """Time to first token: from the start of ``generate`` to the logits of the first new token."""
    total: float
    """All of ``generate``: the parts above, the head, sampling and bookkeeping."""
    new_tokens: int
    """Number of new tokens of each sequence."""
    output: Tensor = field(repr=False, compare=False)
    """(B, prompt + new) int64 token ids, as ``generate`` returned them."""

    @property
    def decode_per_token(self) -> float:
        """Seconds of the LLM per new token after the first; NaN if there is only one."""
        return self.decode / (self.new_tokens - 1) if self.new_tokens > 1 else math.nan

    def to_dict(self) -> dict[str, float | int]:
        """JSON-ready: the seconds and the number of new tokens."""
        names = ("encoder", "prefill", "decode", "ttft", "total", "new_tokens")
        return {name: getattr(self, name) for name in names}


class _Laps:
    """Marks entering and leaving modules; of nested calls only the outermost counts."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.depth, self.began = clock, 0, None
        self.marks: list[tuple[Any, Any]] = []
        """Beginning and end of each outermost call."""

    def enter(self, *_: Any) -> None:
        if self.depth == 0:
            self.began = self.clock.mark()
        self.depth += 1

    def leave(self, *_: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.marks.append((self.began, self.clock.mark()))

    def seconds(self) -> list[float]:
        """The seconds of each outermost call."""
        return [self.clock.seconds(*marks) for marks in self.marks]


def measure(
    model: nn.Module, inputs: Mapping[str, Any], max_new_tokens: int, **generate_kwargs: Any
) -> Timing:
    """Run ``model.generate`` greedily once and time its parts; the model may be plain or accelerated.

    Timing uses hooks, which are removed even after an error. On one CUDA GPU parts are marked by device
    events. Otherwise the clock synchronizes with the device at the start and the end of every part, so the
    total is slightly longer than without timing. Keyword arguments are passed to ``generate`` and may
    override ``do_sample=False``.

    Args:
        inputs: the processor's output on the model's device: one prompt or a padded batch.

    Raises UnsupportedError for an unsupported model.
    """
    modules, clock = locate(model), clock_of(model)
    encoder, llm = _Laps(clock), _Laps(clock)
    first: list[Any] = []

    def record_first(*_: Any) -> None:
        if not first and llm.marks:
            first.append(clock.mark())

    # The first pre-hook and the last hook, so that the hooks of an accelerated model are timed as well.
    handles = []
    try:
        for module, laps in ((modules.encoder, encoder), (modules.projector, encoder), (modules.llm, llm)):
            handles.append(module.register_forward_pre_hook(laps.enter, prepend=True))
            handles.append(module.register_forward_hook(laps.leave))
        handles.append(model.register_forward_hook(record_first))
        clock.synchronize()
        start = clock.mark()
        output = model.generate(
            **inputs, **{"max_new_tokens": max_new_tokens, "do_sample": False, **generate_kwargs}
        )  # type: ignore[operator]
        end = clock.mark()
    finally:
        for handle in handles:
            handle.remove()
    passes = llm.seconds()
    return Timing(
        encoder=sum(encoder.seconds()),
        prefill=passes[0],
        decode=sum(passes[1:]),
        ttft=clock.seconds(start, first[0]),
        total=clock.seconds(start, end),
        new_tokens=output.shape[1] - inputs["input_ids"].shape[1],
        output=output,
    )


@contextmanager
def hook_seconds(model: nn.Module) -> Iterator[list[float]]:
    """Within the block, record the seconds of every call of the hooks that ``model``'s modules have now.

    On an accelerated model this is the CPU time of acceleration itself: work enqueued on a GPU is not waited
    for, and scores computed inside attention are not included.
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
            # Hooks may have been removed or added meanwhile: restore only those that are still registered.
            table.update({key: hook for key, hook in hooks.items() if key in table})


def interleave(
    runs: Mapping[str, Callable[[], Timing]], rounds: int, warmup: int = 1
) -> dict[str, list[Timing]]:
    """Call all runs in turn, once a round, so that drifts in the machine's speed affect all of them.

    The order alternates: a b, b a, a b. The first ``warmup`` rounds are not part of the result. Raises
    ValueError unless there is at least one round.
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
    """The median and the range of repeated measurements."""

    median: float
    low: float
    """The smallest."""
    high: float
    """The largest."""


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum; all NaN if any value is. Raises ValueError without values."""
    if not values:
        raise ValueError("the median needs at least one value")
    if any(math.isnan(value) for value in values):
        return Spread(math.nan, math.nan, math.nan)
    return Spread(statistics.median(values), min(values), max(values))


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Distribution-free confidence interval of the median, by the sign test.

    Its ends are the k-th smallest and the k-th largest of n values, for the largest k with
    P(Binomial(n, 1/2) < k) <= (1 - level) / 2. None for too few values: 95 % needs six.
    """
    n, k, below = len(values), 0, 0.0
    while (below := below + math.comb(n, k) / 2**n) <= (1 - level) / 2:
        k += 1
    ordered = sorted(values)
    return (ordered[k - 1], ordered[n - k]) if k else None


def ratio(before: Sequence[Timing], after: Sequence[Timing], part: str) -> Spread:
    """The speed-up of ``after`` over ``before``, paired by round.

    Rounds are paired because the machine's speed drifts over time. NaN if ``after`` took no time.

    Args:
        part: a field of Timing that holds seconds, or ``decode_per_token``.

    Raises ValueError if the two differ in length.
    """
    return spread(ratios(before, after, part))


def ratios(before: Sequence[Timing], after: Sequence[Timing], part: str) -> list[float]:
    """The values that :func:`ratio` summarizes, one per round."""
    pairs = [(getattr(a, part), getattr(b, part)) for a, b in zip(before, after, strict=True)]
    return [slow / fast if fast else math.nan for slow, fast in pairs]
