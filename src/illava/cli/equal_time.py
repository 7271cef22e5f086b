"""``illava compare --speedup``: rows at equal time to the first token."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError
from ..io.files import protect
from .console import progress, writing

if TYPE_CHECKING:
    from torch import nn

    from ..evaluation.compared_methods import ComparedMethod
    from ..evaluation.rows import Row, Task
    from ..models.located import LocatedModules
    from ..models.workload import Workload
    from ..planning.accelerator import AcceleratorRates
    from ..planning.machine_speed import Rates

CLOCK_FILE = "clock.json"
FEW_PROMPTS = 8
"""Prompts whose time is predicted if none is measured."""


@dataclass(frozen=True)
class ShapeClock:
    """A published shape whose predicted time counts instead of the model's own."""

    modules: LocatedModules
    prompt: Workload
    rates: Rates | AcceleratorRates | None


@dataclass(frozen=True)
class EqualTime:
    """What makes the rows of one model in a comparison at equal time."""

    methods: list[ComparedMethod]
    targets: list[float]
    time: int
    """Prompts to measure on."""
    clock: str | None
    """The published shape whose predicted time counts, if it is not the model's own."""
    shape: Callable[[], ShapeClock]
    """That shape, measured when it is first needed."""

    def rows(
        self,
        name: str,
        model: nn.Module,
        processor: Any,
        tasks: list[Task],
        limit: int,
        batch: int,
        folder: Path,
    ) -> tuple[list[Row], dict[str, str]]:
        """The rows of one model, and the reasons for those that cannot run, by label. Raises InputError.

        Args:
            limit, batch: samples of a task that are asked, in all and at once.
        """
        from ..evaluation.equal_time import FILE_NAME, Budgets, identity, rows_at, stopwatch
        from ..evaluation.rows import TEXT_ONLY, fingerprint
        from ..evaluation.speed import pick
        from ..io.files import check_free

        check_free(folder / FILE_NAME)
        measuring = self.clock is None and self.time > 0
        samples = pick(tasks, limit, self.time or FEW_PROMPTS)
        whose = self.clock or "the model"
        known = identity(model, fingerprint(model), whose, len(samples), measured=measuring)
        budgets = Budgets(folder, known)
        able, rows, refused = self._able(model, processor, tasks, batch)
        predicting = self._predicting(model, processor, samples, budgets)
        measured = stopwatch(model, processor, samples) if measuring else None
        with progress(f"{name}: choosing budgets", len(able) * len(self.targets)) as advance:
            found, more = rows_at(able, self.targets, predicting, measured, budgets, advance)
        return [TEXT_ONLY, *found, *rows], {**refused, **more}

    def _able(
        self, model: nn.Module, processor: Any, tasks: list[Task], batch: int
    ) -> tuple[list[ComparedMethod], list[Row], dict[str, str]]:
        """The methods that run on the model, the rows of the others, and the reasons by label."""
        from ..evaluation.compared_methods import refusals
        from ..evaluation.equal_time import PROBE
        from ..evaluation.rows import timed_row

        rows: list[Row] = []
        refused: dict[str, str] = {}
        able = []
        for method in self.methods:
            probes = method.rows([PROBE])
            reason = next(iter(refusals(model, processor, probes, tasks, batch).values()), None)
            if reason is None:
                able.append(method)
                continue
            if method.schedule is None:
                probes = [
                    timed_row(method.make(PROBE), target, PROBE, target, False, method.name)
                    for target in self.targets
                ]
            rows += probes
            refused |= {row.label: reason for row in probes}
        return able, rows, refused

    def _predicting(self, model: nn.Module, processor: Any, samples: list[Any], budgets: Any) -> Any:
        from ..evaluation.equal_time import workload_of
        from ..models.located import locate
        from ..planning.clock import Clock, parts_measured, rates_from_dict, rates_on

        modules = locate(model)
        if self.clock is not None:
            shape = self.shape()
            assert shape.rates is not None
            return Clock(shape.modules, [shape.prompt], shape.rates, planned_on=modules)
        prompts = [workload_of(model, processor, sample) for sample in samples]
        if budgets.rates is None:
            weight = next(model.parameters())
            with progress("measuring this machine", parts_measured(weight.device)) as advance:
                rates = rates_on(modules, prompts, weight.dtype, weight.device, advance)
            budgets.save_rates(rates.to_dict())
        return Clock(modules, prompts, rates_from_dict(budgets.rates))


def parse_speedups(texts: list[str]) -> list[float]:
    """Speed-ups above 1, each once, ascending. Raises InputError."""
    found = set()
    for text in texts:
        try:
            speedup = float(text.removesuffix("x"))
        except ValueError:
            speedup = math.nan
        if not 1 < speedup < math.inf:
            raise InputError(f"--speedup {text}: give a number above 1, such as 2 or 3.5")
        found.add(speedup)
    return sorted(found)


def check_options(speedups: list[str], keeps: list[str], clock: str | None) -> None:
    """Raise InputError for options that exclude or need each other, and for an unknown shape."""
    from ..bench.published import SHAPES

    if speedups and keeps:
        raise InputError("give either --speedup or --keep, not both: at equal time every method has its own")
    if clock is not None and not speedups:
        raise InputError(f"--clock {clock} needs --speedup, such as --speedup 2 3 4")
    if clock is not None and clock not in SHAPES and not os.path.isfile(clock):
        raise InputError(
            f"--clock {clock}: unknown shape; give a file that an earlier --clock wrote, or one of "
            + ", ".join(SHAPES)
        )


def equal_time(
    names: list[str],
    targets: list[float],
    time: int,
    clock: str | None,
    output: Path,
    device: str,
    dtype: str,
) -> EqualTime:
    """The rows to make. Raises InputError."""
    from ..evaluation.compared_methods import find
    from ..evaluation.equal_time import PROBE

    methods = find(names)
    for method in methods:
        try:
            method.rows([PROBE])
        except (TypeError, ValueError) as error:
            raise InputError(f"--method {method.name}: {error}") from error
    making = partial(_shape_clock, str(clock), output / CLOCK_FILE, device, dtype)
    if clock is not None and os.path.isfile(clock):
        protect(clock)
        digest = hashlib.sha256(Path(clock).read_bytes()).hexdigest()[:8]
        shape, rates = _read_rates(Path(clock))
        clock, making = f"{shape} {digest}", partial(_clock_of, shape, rates)
    return EqualTime(methods, targets, time, clock, lru_cache(maxsize=1)(making))


def _clock_of(name: str, rates: Rates | AcceleratorRates | None) -> ShapeClock:
    from ..bench.published import config
    from ..models.layout import workload
    from ..planning.predict import skeleton

    modules = skeleton(config(name))
    return ShapeClock(modules, workload(modules), rates)


def _read_rates(file: Path, identity: dict[str, str] | None = None) -> tuple[str, Any]:
    """Shape and rates in a file. Raises InputError, also for a file of another shape, device or dtype."""
    from ..bench.published import shape
    from ..planning.clock import rates_from_dict

    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        name, rates = known["shape"], rates_from_dict(known["rates"])
        there = {key: known[key] for key in identity or ()}
        shape(name)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{file}: not the rates of a clock: {error}; move it") from error
    if identity is not None and there != identity:
        values = (" ".join(map(str, some.values())) for some in (there, identity))
        raise InputError("{}: rates of {} there, {} here; give another --output".format(file, *values))
    return name, rates


def _shape_clock(name: str, file: Path, device: str, dtype: str) -> ShapeClock:
    """The clock of a shape, with the rates in ``file``, which are measured and saved there if missing."""
    import torch

    from ..evaluation.store import write_json
    from ..io.files import check_free
    from ..models.loading import parse_device, parse_dtype
    from ..planning.clock import parts_measured, rates_on

    place = parse_device(device)
    kind = parse_dtype(dtype) or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    identity = {"shape": name, "device": place.type, "dtype": str(kind).removeprefix("torch.")}
    check_free(file)
    if file.exists():
        return _clock_of(name, _read_rates(file, identity)[1])
    unmeasured = _clock_of(name, None)
    typer.echo(f"measuring this machine on layers of {name}: up to some minutes, once", err=True)
    with progress(f"measuring {name}", parts_measured(place)) as advance:
        rates = rates_on(unmeasured.modules, [unmeasured.prompt], kind, place, advance)
    with writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {**identity, "threads": torch.get_num_threads(), "rates": rates.to_dict()})
    return replace(unmeasured, rates=rates)
