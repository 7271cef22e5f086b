"""How much faster each row is than the plain model: measured in turn, one prompt at a time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..bench.timing import Timing, interleave, measure, median_interval, ratio, ratios, spread
from ..handle import accelerate
from .prompts import build_batch
from .rows import PLAIN, Row, Task, size
from .samples import Sample
from .store import write_json

FILE_NAME = "timing.json"
PARTS = ("encoder", "prefill", "ttft", "total")
"""What is timed: fields of :class:`illava.bench.timing.Timing`."""


def pick(tasks: Sequence[Task], limit: int, count: int) -> list[Sample]:
    """``count`` samples, from every task in turn; fewer where there are no more."""
    numbers = itertools.count()
    most = max((size(task, limit) for task in tasks), default=0)
    turns = ((task, n) for n in itertools.takewhile(lambda n: n < most, numbers) for task in tasks)
    return [task[n] for task, n in itertools.islice(((t, n) for t, n in turns if n < size(t, limit)), count)]


def measure_rows(
    model: nn.Module,
    processor: Any,
    samples: Sequence[Sample],
    rows: Sequence[Row],
    max_new_tokens: int,
    advance: Callable[[int], None] = lambda answers: None,
) -> dict[str, Any]:
    """Time every row on every sample, all rows of a sample before the next sample.

    Each row makes as many tokens as the plain model's answer has, so that all do the same work; the first
    sample is run once more beforehand to warm up.

    Returns JSON-ready figures: per row the median seconds of each part and how many times faster than the
    plain model it is, a median over samples with its extremes and its 95 % interval (null below six).
    """
    prompts = [_prompt(model, processor, sample, max_new_tokens) for sample in samples]
    rows = (PLAIN, *rows)
    timings = interleave(
        {row.label: _runner(model, row, iter([prompts[0], *prompts]), advance) for row in rows}, len(prompts)
    )
    figures = {row.label: _figures(timings[PLAIN.label], timings[row.label]) for row in rows}
    return {
        "prompts": _names(samples),
        "threads": torch.get_num_threads(),
        "rows": figures,
    }


def known(folder: Path, rows: Sequence[Row], samples: Sequence[Sample]) -> dict[str, Any] | None:
    """What :func:`save` left in the folder, if it is about these rows and, unless empty, these samples."""
    try:
        timing: dict[str, Any] = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        fits = set(timing["rows"]) == {PLAIN.label, *(row.label for row in rows)}
        fits = fits and (not samples or timing["prompts"] == _names(samples))
        return timing if fits else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def save(folder: Path, timing: dict[str, Any]) -> None:
    """Keep the figures of :func:`measure_rows` for a restart."""
    write_json(folder / FILE_NAME, timing)


def _names(samples: Sequence[Sample]) -> list[list[str | int]]:
    return [[sample.task, sample.number] for sample in samples]


def _prompt(model: nn.Module, processor: Any, sample: Sample, max_new_tokens: int) -> tuple[Any, int]:
    """The model's inputs, and how many tokens its plain answer has."""
    parameter = next(model.parameters())
    inputs = build_batch(processor, [sample]).to(device=parameter.device, dtype=parameter.dtype)
    return inputs, measure(model, inputs, max_new_tokens, num_beams=1).new_tokens


def _runner(
    model: nn.Module, row: Row, prompts: Iterator[tuple[Any, int]], advance: Callable[[int], None]
) -> Callable[[], Timing]:
    def run() -> Timing:
        inputs, tokens = next(prompts)
        advance(1)
        if row.method is None:
            return measure(model, inputs, tokens, min_new_tokens=tokens, num_beams=1)
        with accelerate(model, row.method):
            return measure(model, inputs, tokens, min_new_tokens=tokens, num_beams=1)

    return run


def _figures(plain: Sequence[Timing], timings: Sequence[Timing]) -> dict[str, Any]:
    out: dict[str, Any] = {"seconds": {}, "faster": {}}
    for part in PARTS:
        out["seconds"][part] = spread([getattr(timing, part) for timing in timings]).median
        interval = median_interval(ratios(plain, timings, part))
        out["faster"][part] = {**vars(ratio(plain, timings, part)), "interval": interval}
    return out
