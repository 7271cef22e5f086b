"""Models and tasks that other distributions bring, found by entry points.

A distribution registers an object, usually a module, in one of two groups:

``illava.models``
    The entry's name is the prefix of its models' names ("zoo" of "zoo/L"). The object has ``names()``, all
    names, and ``path(name)``, the folder of a model, which raises ValueError for an unknown name.
``illava.tasks``
    The object has ``names()`` and ``load(name, split=, seed=)``, which gives a task
    (:class:`illava.evaluation.rows.Task`) and raises ValueError for what it does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

MODELS, TASKS = "illava.models", "illava.tasks"
LAB = "illava-lab"
"""The distribution that brings the models ``zoo/S`` and ``zoo/L`` and the drawn tasks."""
LAB_MODELS = "zoo"


class Models(Protocol):
    """Models by name."""

    def names(self) -> Sequence[str]:
        """All names, each with the entry's prefix."""

    def path(self, name: str) -> Path:
        """The folder of a model, as :meth:`save_pretrained` writes it. Raises ValueError."""


class Tasks(Protocol):
    """Tasks by name."""

    def names(self) -> Sequence[str]:
        """All names."""

    def load(self, name: str, split: str = "test", seed: int = 0) -> Any:
        """A task. Raises ValueError."""


def models() -> dict[str, Models]:
    """What registers models, by the prefix of their names."""
    return _registered(MODELS)


def tasks() -> dict[str, Tasks]:
    """What registers tasks, by the names of these."""
    return {name: one for one in _registered(TASKS).values() for name in one.names()}


def model_names() -> list[str]:
    """The names of all models that installed distributions bring, sorted."""
    return sorted(name for one in models().values() for name in one.names())


@lru_cache(None)
def _registered(group: str) -> dict[str, Any]:
    return {entry.name: entry.load() for entry in entry_points(group=group)}
