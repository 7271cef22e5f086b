"""Who takes part in a comparison: methods by name, presets, and methods that were saved to files."""

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
from ..methods import Method, method_from_dict, methods
from ..methods.base import FILE_NAME
from ..methods.presets import presets
from .prompts import build_batch
from .rows import TEXT_ONLY, Row, Task, merged_row

ALL = "all"
STAGES = ("projector", "llm")
"""Of methods that have a ``stage``: each takes part as, e.g., "random projector" and "random llm"."""


@dataclasses.dataclass(frozen=True)
class Entrant:
    """One method of a comparison, at whatever budget."""

    name: str
    make: Callable[[float], Method]
    """The method at a budget: final visual tokens / all."""
    schedule: Method | None = None
    """Instead, a method whose steps have shares of their own, so that it takes no budget."""

    def rows(self, keeps: Sequence[float]) -> list[Row]:
        """A row a budget, or the one of a schedule."""
        if self.schedule is not None:
            return [Row(f"{self.name} as saved", self.schedule, None, name=self.name)]
        return [merged_row(self.make(keep), keep, self.name) for keep in keeps]


def comparison_rows(names: Sequence[str], keeps: Sequence[float]) -> list[Row]:
    """All rows of a comparison but the plain and the blank one: text only, then every method at every budget.

    Args:
        names: of methods and presets; folders or JSON files written by ``Method.save_pretrained``, whose
            own ``keep`` the budgets replace; "all": every method and every preset.
        keeps: final visual tokens / all, in (0, 1].

    Raises InputError for names and files that are no method, and for budgets that a method does not take.
    """
    rows: dict[str, Row] = {TEXT_ONLY.label: TEXT_ONLY}
    for entrant in entrants(names):
        try:
            made = entrant.rows(keeps)
        except (TypeError, ValueError) as error:
            raise InputError(f"--method {entrant.name}: {error}") from error
        # 1/2 and 0.5 are one row.
        rows |= {row.label: row for row in made}
    return list(rows.values())


def entrants(names: Sequence[str]) -> list[Entrant]:
    """Who is meant by ``names``, each once. Raises InputError."""
    shipped = known()
    found: dict[str, Entrant] = {}
    for name in dict.fromkeys(names):
        if name == ALL:
            meant = list(shipped.values())
        elif name in shipped:
            meant = [shipped[name]]
        elif f"{name} {STAGES[0]}" in shipped:
            meant = [shipped[f"{name} {stage}"] for stage in STAGES]
        elif os.path.exists(name):
            meant = [_saved(Path(name))]
            if meant[0].name in {**shipped, **found}:
                raise InputError(f"--method {name}: there is another {meant[0].name}; rename this one")
        else:
            raise InputError(
                f"--method {name}: there is no such method, folder or file; give {ALL} or some of "
                f"{', '.join(shipped)}"
            )
        found |= {entrant.name: entrant for entrant in meant}
    return list(found.values())


def reference_name(reference: str, names: Sequence[str]) -> str:
    """The name of the one entrant that ``reference`` means: one of those in ``names``, or else any other.

    Raises InputError where there is no such one, or several are.
    """
    if reference in (entrant.name for entrant in entrants(names)):
        return reference
    found = [entrant.name for entrant in entrants([reference])]
    if len(found) > 1:
        raise InputError(f"--reference {reference}: give one of {', '.join(found)}")
    return found[0]


def known() -> dict[str, Entrant]:
    """Every method and preset by the name it takes part under."""
    found: dict[str, Entrant] = {}
    for name, kind in methods().items():
        fields = {field.name for field in dataclasses.fields(kind)}
        if {"keep", "stage"} <= fields:
            for stage in STAGES:
                found[f"{name} {stage}"] = Entrant(f"{name} {stage}", _at(kind, stage=stage))
        elif "keep" in fields:
            # Others, such as methods put together of several, take part from files.
            found[name] = Entrant(name, _at(kind))
    return found | {name: Entrant(name, make) for name, make in presets().items()}


def refusals(model: nn.Module, processor: Any, rows: Sequence[Row], tasks: Sequence[Task]) -> dict[str, str]:
    """By label why rows cannot run on this model, one line each.

    Every method is put on the model and sees a prompt of each form that the tasks' first samples have: one
    picture, several, a video. So a run of hours does not end at what could be known at its start.
    """
    first = [task[0] for task in tasks]
    forms = {(bool(sample.video), len(sample.pictures) > 1): sample for sample in first}
    parameter = next(model.parameters())
    prompts = [
        build_batch(processor, [sample]).to(device=parameter.device, dtype=parameter.dtype)
        for sample in forms.values()
    ]
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


def _at(make: Callable[..., Any], **fields: Any) -> Callable[[float], Method]:
    return lambda keep: make(keep=keep, **fields)


def _saved(path: Path) -> Entrant:
    """A method from a file, under the file's name, or the folder's for the name that folders hold it by."""
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
        return Entrant(name, make, schedule=method)
    return Entrant(name, make)
