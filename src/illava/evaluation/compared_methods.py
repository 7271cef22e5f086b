"""The methods that a comparison includes: methods and presets by name, and methods saved to files."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..api import accelerate
from ..errors import UnsupportedError
from ..io.files import protect
from ..io.pictures import InputError
from ..methods import Illava, Method, method_from_dict, methods
from ..methods.base import FILE_NAME
from ..methods.presets import presets
from .prompts import inputs_of
from .rows import TEXT_ONLY, Row, Task, merged_row, size
from .samples import Sample

ALL = "all"
PLANNED = "illava-planned"
"""At equal time only: what the planner recommends for the speed-up, one row for each."""
STAGES = ("projector", "llm")
"""A method with a ``stage`` is compared at each of these, e.g. as "random projector" and "random llm"."""


@dataclasses.dataclass(frozen=True)
class ComparedMethod:
    """One method of a comparison, at any budget."""

    name: str
    make: Callable[[float], Method]
    """From a budget, final visual tokens / all, to the method."""
    schedule: Method | None = None
    """A method with a fixed share at each step, which is used as it is and has no budget."""
    planned: bool = False
    """Whether the planner chooses a schedule, or a smaller picture, for each speed-up; ``make`` is then the
    preset."""

    def rows(self, keeps: Sequence[float]) -> list[Row]:
        """One row per budget, or a single row for a fixed schedule."""
        if self.schedule is not None:
            return [Row(f"{self.name} as saved", self.schedule, None, name=self.name)]
        return [merged_row(self.make(keep), keep, self.name) for keep in keeps]


def comparison_rows(names: Sequence[str], keeps: Sequence[float]) -> list[Row]:
    """All rows of a comparison except plain and blank: text only, then every method at every budget.

    Args:
        names: names of methods and presets; folders or JSON files written by ``Method.save_pretrained``,
            whose ``keep`` is replaced by the budgets; "all" for every method and every preset.
        keeps: final visual tokens / all, in (0, 1].

    Raises InputError for unknown names, for files that are not methods, and for budgets that a method
    rejects.
    """
    rows: dict[str, Row] = {TEXT_ONLY.label: TEXT_ONLY}
    for method in find(names):
        if method.planned:
            raise InputError(
                f"--method {PLANNED} needs --speedup, the time that the planner chooses layers for"
            )
        try:
            # 1/2 and 0.5 have the same label.
            rows |= {row.label: row for row in method.rows(keeps)}
        except (TypeError, ValueError) as error:
            raise InputError(f"--method {method.name}: {error}") from error
    return list(rows.values())


def find(names: Sequence[str]) -> list[ComparedMethod]:
    """The methods called ``names``, each once. Raises InputError."""
    shipped = known()
    found: dict[str, ComparedMethod] = {}
    for name in dict.fromkeys(names):
        if name == ALL:
            matches = list(shipped.values())
        elif name in shipped:
            matches = [shipped[name]]
        elif name == PLANNED:
            matches = [ComparedMethod(PLANNED, Illava.best, planned=True)]
        elif f"{name} {STAGES[0]}" in shipped:
            matches = [shipped[f"{name} {stage}"] for stage in STAGES]
        elif os.path.exists(name):
            matches = [_saved(Path(name))]
            if matches[0].name in {**shipped, **found}:
                raise InputError(
                    f"--method {name}: there is another method called {matches[0].name}; rename this one"
                )
        else:
            raise InputError(
                f"--method {name}: no such method, folder or file; give {ALL} or some of "
                + ", ".join((*shipped, f"{PLANNED} (with --speedup)"))
            )
        found |= {method.name: method for method in matches}
    return list(found.values())


def reference_name(reference: str, names: Sequence[str]) -> str:
    """The name of the reference method, which may be one of ``names`` or another one.

    Raises InputError unless ``reference`` stands for exactly one method.
    """
    if reference in (method.name for method in find(names)):
        return reference
    found = [method.name for method in find([reference])]
    if len(found) > 1:
        raise InputError(f"--reference {reference}: give one of {', '.join(found)}")
    return found[0]


def known() -> dict[str, ComparedMethod]:
    """Every method and preset by its name in comparisons."""
    found: dict[str, ComparedMethod] = {}
    for name, kind in methods().items():
        fields = {field.name for field in dataclasses.fields(kind)}
        if {"keep", "stage"} <= fields:
            for stage in STAGES:
                found[f"{name} {stage}"] = ComparedMethod(f"{name} {stage}", _at(kind, stage=stage))
        elif "keep" in fields:
            # Methods without ``keep``, such as Compose, can be compared from files.
            found[name] = ComparedMethod(name, _at(kind))
    return found | {name: ComparedMethod(name, make) for name, make in presets().items()}


def refusals(
    model: nn.Module, processor: Any, rows: Sequence[Row], tasks: Sequence[Task], batch: int = 2
) -> dict[str, str]:
    """The rows that cannot run on this model: label -> reason, in one line.

    Every method generates one token for a prompt of each form among the tasks' first samples: one image,
    several images, a video; and for two such prompts at once, with different images, where a task has them.
    Unsupported rows are thus found before a long run starts.

    Args:
        batch: samples of a task that are asked at once; the second prompt is one of these.
    """
    forms: dict[tuple[bool, bool], list[Sample]] = {}
    for task in tasks:
        samples = _unlike(task, batch)
        form = bool(samples[0].video), len(samples[0].pictures) > 1
        if len(samples) > len(forms.get(form, ())):
            forms[form] = samples
    asked = [samples[:1] for samples in forms.values()]
    asked += [samples for samples in forms.values() if len(samples) > 1]
    prompts = [inputs_of(model, processor, samples) for samples in asked]
    found: dict[str, str] = {}
    for row in rows:
        if row.method is None:
            continue
        try:
            with torch.no_grad(), accelerate(model, row.method):
                for prompt in prompts:
                    model.generate(**prompt, max_new_tokens=1, do_sample=False, num_beams=1)  # type: ignore[operator]
        except (UnsupportedError, ValueError) as error:
            found[row.label] = " ".join(str(error).split())
    return found


def _unlike(task: Task, batch: int) -> list[Sample]:
    """A task's first sample, and the first other one of its batch that shows something else, if any."""
    first = task[0]
    for number in range(1, size(task, batch)):
        other = task[number]
        # Runs ask about images and about videos in separate batches.
        if bool(other.video) == bool(first.video) and (
            (other.pictures, other.video) != (first.pictures, first.video)
        ):
            return [first, other]
    return [first]


def _at(make: Callable[..., Any], **fields: Any) -> Callable[[float], Method]:
    return lambda keep: make(keep=keep, **fields)


def _saved(path: Path) -> ComparedMethod:
    """A method from a file, named after the file, or after the folder if the file has its default name."""
    file = path / FILE_NAME if path.is_dir() else path
    protect(path, file)
    name = file.resolve().parent.name if file.name == FILE_NAME else file.stem
    try:
        method = method_from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"--method {path}: {file} is not a saved method: {error}") from error

    def make(keep: float) -> Method:
        return dataclasses.replace(method, keep=keep)  # type: ignore[call-arg]

    try:
        make(0.5)
    except (TypeError, ValueError):
        return ComparedMethod(name, make, schedule=method)
    return ComparedMethod(name, make)
