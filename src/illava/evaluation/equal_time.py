"""Rows of equal time: every method at the budget with which it reaches a speed-up to the first token.

Budgets are predicted, corrected by measurements on the model, and saved after every measurement in
``budgets.json``, so that a continued run has the same rows.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..api import accelerate
from ..bench.machine import machine
from ..bench.timing import Timing, interleave, measure
from ..errors import InputError, UnsupportedError
from ..methods import Method
from ..models.layout import resized, workload
from ..models.located import LocatedModules, locate
from ..models.workload import Size, Workload
from ..planning.clock import Clock
from ..planning.equal_time import Budget, calibrated_budget, predicted_budget
from .compared_methods import ComparedMethod
from .prompts import build_batch, inputs_of
from .rows import PLAIN, Row, dtype_of, timed_row
from .samples import Sample
from .store import write_json

FILE_NAME = "budgets.json"
PROBE = 1 / 3
"""The budget at which a method is tried before the run."""
TURNS, MOST_TURNS, SECONDS = 3, 12, 1.0
"""How often plain and row run on each prompt in one measurement, the fastest run of each counting: at least
and at most so often, and in between so often that it takes this many seconds."""

TITLES = {"dtype": "dtype of times"}
"""How parts of an identity are called where they differ."""

Measure = Callable[[Method], float]
"""A method to its measured speed-up to the first token."""


class Budgets:
    """The budgets of one model's folder.

    Args:
        folder: created if missing.
        identity: JSON-ready; budgets that were found for another one are refused.

    Raises InputError if the folder holds other budgets, or a file that is none.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.file = folder / FILE_NAME
        self.values: dict[str, Any] = {"identity": identity, "rates": None, "points": [], "rows": {}}
        if not self.file.exists():
            return
        try:
            known = json.loads(self.file.read_text(encoding="utf-8"))
            there = known["identity"]
            known["points"], known["rows"].items(), known["rates"]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{self.file}: not a file of budgets: {error}; give another --output") from error
        different = [
            f"{TITLES.get(k, k)} {there.get(k)} there, {v} here"
            for k, v in identity.items()
            if there.get(k) != v
        ]
        if different:
            raise InputError(f"{self.file}: budgets for {'; '.join(different)}; give another --output")
        self.values = known

    @property
    def rates(self) -> dict[str, Any] | None:
        """The saved speed of the machine."""
        saved: dict[str, Any] | None = self.values["rates"]
        return saved

    def save_rates(self, rates: dict[str, Any]) -> None:
        """Save the speed of the machine."""
        self.values["rates"] = rates
        self._write()

    def points(self, make: Callable[[float], Method]) -> dict[float, list[float]]:
        """The measurements of a method: budget -> speed-ups."""
        found: dict[float, list[float]] = {}
        for point in self.values["points"]:
            keep = point["method"].get("keep")
            if keep is not None and point["method"] == make(keep).to_dict():
                found.setdefault(keep, []).append(point["speedup"])
        return found

    def save_point(self, method: Method, speedup: float) -> None:
        """Save one measurement."""
        self.values["points"].append({"method": method.to_dict(), "speedup": speedup})
        self._write()

    def row(self, name: str, target: float, make: Callable[[float], Method]) -> Budget | None:
        """The budget of a method at a target, if it has been found before for the same method."""
        row = self.values["rows"].get(name, {}).get(f"{target:g}")
        if row is None or row.get("method") != make(row["keep"]).to_dict():
            return None
        return Budget(row["keep"], row["speedup"], target, row["ends"])

    def save_row(self, name: str, budget: Budget, method: Method) -> None:
        """Save the budget of a method at a target, with the method at this budget."""
        row = {"keep": budget.keep, "speedup": budget.speedup, "ends": budget.ends}
        row["method"] = method.to_dict()
        self.values["rows"].setdefault(name, {})[f"{budget.target:g}"] = row
        self._write()

    def _write(self) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, self.values)
        except OSError as error:
            raise InputError(f"{self.file}: cannot write there: {error.strerror or error}") from error


def rows_at(
    methods: Sequence[ComparedMethod],
    targets: Sequence[float],
    clock: Clock,
    measured: Measure | None,
    budgets: Budgets,
    advance: Callable[[int], None] = lambda rows: None,
) -> tuple[list[Row], dict[str, str]]:
    """One row per method and target; a method that ends below a target has one row for where it ends.

    Args:
        targets: speed-ups to the first token.
        measured: None: budgets are only predicted.
        advance: called with the number of rows found.

    Returns the rows, and the reasons for those that cannot run, by label. Methods with a schedule of their
    own have one row.
    """
    rows: list[Row] = []
    refused: dict[str, str] = {}
    for method in methods:
        if method.schedule is not None:
            rows += method.rows([])
            advance(len(targets))
            continue
        for number, target in enumerate(sorted(targets)):
            try:
                row = _row(method, target, clock, measured, budgets)
            except InputError:
                raise
            except (UnsupportedError, ValueError) as error:
                row = timed_row(method.make(PROBE), target, PROBE, target, False, method.name)
                refused[row.label] = " ".join(str(error).split())
            rows.append(row)
            if row.ends:
                advance(len(targets) - number)
                break
            advance(1)
    return rows, refused


def _row(
    compared: ComparedMethod, target: float, clock: Clock, measured: Measure | None, budgets: Budgets
) -> Row:
    make = clock.planned(target) if compared.planned else compared.make
    budget = budgets.row(compared.name, target, make)
    if budget is None:

        def predict(keep: float) -> float:
            return clock.speedup(make(keep))

        def run(keep: float) -> float:
            assert measured is not None
            speedup = measured(make(keep))
            budgets.save_point(make(keep), speedup)
            return speedup

        if measured is None:
            budget = predicted_budget(predict, target)
        else:
            budget = calibrated_budget(predict, run, target, budgets.points(make))
        budgets.save_row(compared.name, budget, make(budget.keep))
    return timed_row(make(budget.keep), target, budget.keep, budget.speedup, budget.ends, compared.name)


def stopwatch(model: nn.Module, processor: Any, samples: Sequence[Sample]) -> Measure:
    """A function that measures a method's median speed-up over the samples, in turn with the plain model."""
    prompts = [inputs_of(model, processor, [sample]) for sample in samples]

    def plain(inputs: Any) -> Timing:
        return measure(model, inputs, 1, num_beams=1)

    def speedup(method: Method) -> float:
        def merged(inputs: Any) -> Timing:
            with accelerate(model, method):
                return plain(inputs)

        found: list[float] = []
        for number, inputs in enumerate(prompts):
            runs = {PLAIN.label: lambda: plain(inputs), method.name: lambda: merged(inputs)}  # noqa: B023
            timings = interleave(runs, 1, warmup=0 if number else 1)
            spent = sum(some[0].total for some in timings.values())
            more = interleave(runs, min(MOST_TURNS, max(TURNS, round(SECONDS / spent))) - 1, warmup=0)
            timings = {label: [*some, *more[label]] for label, some in timings.items()}
            slow, fast = (min(timing.ttft for timing in some) for some in timings.values())
            found.append(slow / fast)
        return statistics.median(found)

    return speedup


def workload_of(model: nn.Module, processor: Any, sample: Sample) -> Workload:
    """The workload of a sample's prompt.

    If its images differ in size, the first one stands for all; the number of tokens of the prompt is exact
    unless that makes more of them than there are.
    """
    modules = locate(model)
    inputs = build_batch(processor, [sample])
    frames, pictures = len(sample.video), max(1, len(sample.pictures))
    size = _processed(modules, inputs, sample)

    def with_text(tokens: int) -> Workload:
        return workload(modules, size, 1 if frames else pictures, frames, tokens)

    shortest = with_text(1)
    missing = int(inputs["input_ids"].shape[1]) - shortest.text - shortest.visual_tokens
    return with_text(1 + max(0, missing))


def _processed(modules: LocatedModules, inputs: Any, sample: Sample) -> Size:
    """Width and height of the first image or frame after the processor."""
    picture = (*sample.pictures, *sample.video)[0]
    grid = inputs.get("video_grid_thw" if sample.video else "image_grid_thw")
    patch = getattr(modules.config.vision_config, "patch_size", None)
    if grid is not None and isinstance(patch, int):
        _, rows, columns = grid[0].tolist()
        return columns * patch, rows * patch
    return resized(modules.config, picture.size)


def identity(model: nn.Module, weights: str, clock: str, prompts: int, *, measured: bool) -> dict[str, Any]:
    """What budgets are valid for: library, weights, machine, whose time counts, and on how many prompts.

    Args:
        weights: their fingerprint.
        clock: whose time counts.
        prompts: the number of prompts whose time is predicted or measured.
        measured: whether any time is measured.
    """
    parameter = next(model.parameters())
    return {
        "illava": __version__,
        "weights": weights,
        "device": parameter.device.type,
        "dtype": dtype_of(model),
        "cpu": machine()["cpu"],
        "threads": torch.get_num_threads(),
        "clock": clock,
        "budgets": "measured" if measured else "predicted",
        "prompts": prompts,
    }
