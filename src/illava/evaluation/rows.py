"""Tasks, rows (the ways to answer their questions), and the settings that identify a run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol

from torch import nn

from .. import __version__
from ..api import accelerate
from ..io.pictures import InputError
from ..methods import Method
from .samples import Sample

Visuals = Literal["pictures", "grey", "nothing"]


class Task(Protocol):
    """Reproducible questions by number; an infinite task has no ``__len__``.

    An optional attribute ``group`` is "text" if the answer is written in the image, "where" if it depends on
    positions, and "" otherwise: comparisons at equal time list such tasks separately.
    """

    name: str
    description: str

    def __getitem__(self, number: int) -> Sample: ...


@dataclass(frozen=True)
class Row:
    """One way to answer all questions."""

    label: str
    """The name of the row in files and tables."""
    method: Method | None = None
    """None: the plain model."""
    keep: float | None = 1.0
    """The budget it is listed under: final visual tokens / all; None for a method's published schedule."""
    visuals: Visuals = "pictures"
    """What the model sees: the images or videos, grey ones instead, or only the question."""
    name: str = ""
    """The name without the budget, if there is one."""
    target: float | None = None
    """In a comparison at equal time: the speed-up to the first token that ``keep`` was chosen for."""
    ends: bool = False
    """Whether no budget reaches the target, so that this is the fastest row of its method."""
    expected: float | None = None
    """The speed-up with which ``keep`` was chosen: measured, or predicted."""

    @property
    def column(self) -> float | None:
        """What rows have in common if they can be compared: the target, or else the budget.

        None for schedules of their own and for the ends of methods that reach no target.
        """
        return None if self.ends else self.keep if self.target is None else self.target

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what distinguishes this row from others."""
        plain = {"pictures": "plain", "grey": "blank", "nothing": "text only"}[self.visuals]
        return {
            "method": plain if self.method is None else self.method.name,
            "keep": self.keep,
            "options": None if self.method is None else self.method.to_dict(),
        }


PLAIN, BLANK, TEXT_ONLY = Row("plain"), Row("blank", visuals="grey"), Row("text only", visuals="nothing")


def merged_row(method: Method, keep: float | None, name: str = "") -> Row:
    """The row of ``method`` at budget ``keep``, labelled e.g. "illava 1/9" or "illava published".

    Args:
        name: default: the method's name.
    """
    name = name or method.name
    return Row(f"{name} {budget(keep)}", method, keep, name=name)


def timed_row(method: Method, target: float, keep: float, speedup: float, ends: bool, name: str) -> Row:
    """The row of a method at a speed-up, labelled "fastv 3x", or "fastv 1.7x (its most)" if it ends there."""
    label = f"{name} {speedup:.2g}x (its most)" if ends else f"{name} {target:g}x"
    return Row(label, method, keep, name=name, target=target, ends=ends, expected=speedup)


def group(task: Task) -> str:
    """The group of a task; see :class:`Task`."""
    return str(getattr(task, "group", ""))


def budget(keep: float | None) -> str:
    """Format a budget for tables: "1/9", "0.33", or "published" for a method's published schedule."""
    if keep is None:
        return "published"
    simple = Fraction(keep).limit_denominator(64)
    return str(simple) if float(simple) == keep else f"{keep:.12g}"


def size(task: Task, limit: int) -> int:
    """The number of samples of a task that a run uses."""
    try:
        return min(limit, len(task))  # type: ignore[arg-type]
    except TypeError:
        return limit


def describe(
    name: str, model: nn.Module, tasks: Sequence[Task], rows: Sequence[Row], **options: Any
) -> dict[str, Any]:
    """The settings of a run, which :class:`Store` compares.

    Args:
        name: the model, as given by the user.
        options: ``limit``, ``seed``, ``split``, ``batch_size`` and ``max_new_tokens``.
    """
    parameter = next(model.parameters())
    return {
        "model": os.path.realpath(name) if os.path.isdir(name) else name,
        "weights": fingerprint(model),
        "device": parameter.device.type,
        "dtype": dtype_of(model),
        "illava": __version__,
        **options,
        "tasks": {task.name: getattr(task, "fingerprint", "") for task in tasks},
        "rows": {row.label: row.to_dict() for row in (PLAIN, BLANK, *rows)},
    }


def dtype_of(model: nn.Module) -> str:
    """The dtype of a model's first weight, such as "float32"."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def fingerprint(model: nn.Module) -> str:
    """A short hash of the names, shapes and about a thousand values of each weight."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().flatten()
        some = flat[:: max(1, flat.numel() // 1000)].double().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_rows(model: nn.Module, rows: Sequence[Row]) -> None:
    """Raise InputError if a method does not fit the model."""
    for row in rows:
        if row.method is not None:
            try:
                accelerate(model, row.method).remove()
            except ValueError as error:
                raise InputError(f"{row.label}: {error}") from error
