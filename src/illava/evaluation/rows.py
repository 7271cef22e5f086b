"""What is asked in which ways: tasks, rows, and the settings that tell one run from another."""

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

Shown = Literal["pictures", "grey", "nothing"]


class Task(Protocol):
    """Questions by number, always the same ones; an endless task has no ``__len__``."""

    name: str
    description: str

    def __getitem__(self, number: int) -> Sample: ...


@dataclass(frozen=True)
class Row:
    """One way to answer all questions."""

    label: str
    """How the row is called in files and tables."""
    method: Method | None = None
    """None: the plain model."""
    keep: float | None = 1.0
    """The budget it is listed under: final visual tokens / all; None for a method's own schedule."""
    shown: Shown = "pictures"
    """Pictures and videos, plain grey in their place, or only the question."""
    name: str = ""
    """How the row is called without its budget, where it has one."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what makes this row differ from others."""
        plain = {"pictures": "plain", "grey": "blank", "nothing": "text only"}[self.shown]
        return {
            "method": plain if self.method is None else self.method.name,
            "keep": self.keep,
            "options": None if self.method is None else self.method.to_dict(),
        }


PLAIN, BLANK, TEXT_ONLY = Row("plain"), Row("blank", shown="grey"), Row("text only", shown="nothing")


def merged_row(method: Method, keep: float | None, name: str = "") -> Row:
    """A row of ``method``, whose budget is ``keep``, called e.g. "illava 1/9" or "illava published".

    Args:
        name: instead of the method's own.
    """
    name = name or method.name
    return Row(f"{name} {budget(keep)}", method, keep, name=name)


def budget(keep: float | None) -> str:
    """A budget as tables show it: "1/9", "0.33", or "published" for a method's own schedule."""
    if keep is None:
        return "published"
    simple = Fraction(keep).limit_denominator(64)
    return str(simple) if float(simple) == keep else f"{keep:.12g}"


def size(task: Task, limit: int) -> int:
    """How many samples of a task are asked for."""
    try:
        return min(limit, len(task))  # type: ignore[arg-type]
    except TypeError:
        return limit


def describe(
    name: str, model: nn.Module, tasks: Sequence[Task], rows: Sequence[Row], **options: Any
) -> dict[str, Any]:
    """The settings of a run, as :class:`Store` compares them.

    Args:
        name: of the model, as its user calls it.
        options: ``limit``, ``seed``, ``split``, ``batch_size`` and ``max_new_tokens``.
    """
    parameter = next(model.parameters())
    return {
        "model": os.path.realpath(name) if os.path.isdir(name) else name,
        "weights": fingerprint(model),
        "device": parameter.device.type,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "illava": __version__,
        **options,
        "tasks": {task.name: getattr(task, "fingerprint", "") for task in tasks},
        "rows": {row.label: row.to_dict() for row in (PLAIN, BLANK, *rows)},
    }


def fingerprint(model: nn.Module) -> str:
    """A short hash of names, shapes and about a thousand numbers of each weight."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().flatten()
        some = flat[:: max(1, flat.numel() // 1000)].double().cpu()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_rows(model: nn.Module, rows: Sequence[Row]) -> None:
    """Raise InputError where a method does not fit the model."""
    for row in rows:
        if row.method is not None:
            try:
                accelerate(model, row.method).remove()
            except ValueError as error:
                raise InputError(f"{row.label}: {error}") from error
