"""Measure the speed-up of each row over the plain model, one prompt at a time.

Results are saved after every prompt, so that a stopped measurement can be continued.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..api import accelerate
from ..bench.machine import machine
from ..bench.timing import Timing, interleave, measure, median_interval, ratio, ratios, spread
from .prompts import inputs_of
from .rows import PLAIN, Row, Task, dtype_of, size
from .samples import Sample
from .store import write_json

FILE_NAME, ROUNDS = "timing.json", "rounds.json"
PARTS = ("encoder", "prefill", "ttft", "total")
"""The timed parts: fields of :class:`illava.bench.timing.Timing`."""

Rounds = dict[tuple[str, int], dict[str, Timing]]
"""(task, sample number) -> row -> timing."""


def pick(tasks: Sequence[Task], limit: int, count: int) -> list[Sample]:
    """The first ``count`` samples, taken from all tasks in turn, or all if there are fewer."""
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
    advance: Callable[[int], None] = lambda runs: None,
    folder: Path | None = None,
    turns: int = 1,
) -> dict[str, Any]:
    """Time every row on every sample, all rows of a sample before the next sample.

    Every row generates as many tokens as the plain model's answer has, so that all do the same work. The
    first sample is also run once to warm up. With a folder, results are saved there after every sample, and
    those of an earlier run with the same rows, dtype and number of threads are reused. Of ``turns`` runs of a
    row on a sample, the one with the earliest first token counts.

    Returns JSON-ready results: for each row the median seconds of each part and its speed-up over the plain
    model, as the median over samples with its range and 95 % interval (null below six samples).
    """
    rows = (PLAIN, *rows)
    setting = {"threads": torch.get_num_threads(), "dtype": dtype_of(model)}
    rounds = _known_rounds(folder, rows, setting)
    advance(len(rows) * sum(_name(sample) in rounds for sample in samples))
    warm = False
    for number, sample in enumerate(samples):
        if _name(sample) in rounds:
            continue
        inputs, tokens = _prompt(model, processor, sample, max_new_tokens)
        runs = {row.label: _runner(model, row, inputs, tokens, advance) for row in rows}
        # Reverse the order for every other prompt.
        runs = dict(list(runs.items())[:: -1 if number % 2 else 1])
        timings = interleave(runs, turns, warmup=0 if warm else 1)
        rounds[_name(sample)] = {
            row.label: min(timings[row.label], key=lambda timing: timing.ttft) for row in rows
        }
        warm = True
        _save_rounds(folder, rounds, setting)
    timings = {row.label: [rounds[_name(sample)][row.label] for sample in samples] for row in rows}
    return {
        "prompts": _names(samples),
        **setting,
        "machine": machine(),
        "turns": turns,
        "rows": {label: _figures(timings[PLAIN.label], some) for label, some in timings.items()},
    }


def known(
    folder: Path, rows: Sequence[Row], samples: Sequence[Sample], dtype: str | None = None
) -> dict[str, Any] | None:
    """Load what :func:`save` wrote for these rows and, unless ``samples`` is empty, these samples, if any.

    None is returned as well for times in another dtype than ``dtype``.
    """
    try:
        timing: dict[str, Any] = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        fits = set(timing["rows"]) == {PLAIN.label, *(row.label for row in rows)}
        fits = fits and (not samples or timing["prompts"] == _names(samples))
        # Files of earlier versions name no dtype: theirs was that of the answers.
        fits = fits and (dtype is None or timing.get("dtype", dtype) == dtype)
        return timing if fits else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def save(folder: Path, timing: dict[str, Any]) -> None:
    """Save the results of :func:`measure_rows`."""
    write_json(folder / FILE_NAME, timing)


def _known_rounds(folder: Path | None, rows: Sequence[Row], setting: dict[str, Any]) -> Rounds:
    try:
        kept = json.loads((folder / ROUNDS).read_text(encoding="utf-8")) if folder else {}
        there = {key: kept.get(key) for key in setting}
        if there != setting or set(kept["rows"]) != {row.label for row in rows}:
            return {}
        return {
            (task, number): {
                # The output is not needed here.
                label: Timing(**parts, output=torch.empty(0, dtype=torch.int64))
                for label, parts in zip(kept["rows"], seconds, strict=True)
            }
            for task, number, seconds in kept["prompts"]
        }
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        return {}


def _save_rounds(folder: Path | None, rounds: Rounds, setting: dict[str, Any]) -> None:
    if folder is not None:
        labels = list(next(iter(rounds.values())))
        prompts = [
            [task, number, [timings[label].to_dict() for label in labels]]
            for (task, number), timings in rounds.items()
        ]
        write_json(folder / ROUNDS, {**setting, "rows": labels, "prompts": prompts})


def _name(sample: Sample) -> tuple[str, int]:
    return sample.task, sample.number


def _names(samples: Sequence[Sample]) -> list[list[str | int]]:
    return [list(_name(sample)) for sample in samples]


def _prompt(model: nn.Module, processor: Any, sample: Sample, max_new_tokens: int) -> tuple[Any, int]:
    """The model's inputs, and the number of tokens of the plain model's answer."""
    inputs = inputs_of(model, processor, [sample])
    return inputs, measure(model, inputs, max_new_tokens, num_beams=1).new_tokens


def _runner(
    model: nn.Module, row: Row, inputs: Any, tokens: int, advance: Callable[[int], None]
) -> Callable[[], Timing]:
    def run() -> Timing:
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
