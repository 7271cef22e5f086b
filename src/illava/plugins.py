"""Models and tasks of other distributions, found through entry points.

A distribution registers an object, usually a module, in one of two groups:

``illava.models``
    The name of the entry is the prefix of its model names, such as "zoo" for "zoo/L". The object has
    ``names()``, which lists all names, and ``path(name)``, which returns the folder of a model and raises
    ValueError for an unknown name.
``illava.tasks``
    The object has ``names()`` and ``load(name, split=, seed=)``, which returns a task
    (:class:`illava.evaluation.rows.Task`) and raises ValueError for an unknown name, split or seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

MODELS, TASKS = "illava.models", "illava.tasks"
LAB = "illava-lab"
"""The distribution of the models ``zoo/S`` and ``zoo/L`` and of the drawn tasks."""
LAB_MODELS = "zoo"


class Models(Protocol):
    """Models by name."""

    def names(self) -> Sequence[str]:
        """All names, each with the prefix of the entry."""

    def path(self, name: str) -> Path:
        """The folder of a model, as ``save_pretrained`` writes it. Raises ValueError for an unknown name."""


class Tasks(Protocol):
    """Tasks by name."""

    def names(self) -> Sequence[str]:
        """All names."""

    def load(self, name: str, split: str = "test", seed: int = 0) -> Any:
        """A task. Raises ValueError for an unknown name, split or seed."""


def models() -> dict[str, Models]:
    """The registered sources of models, by the prefix of their names."""
    return _registered(MODELS)


def tasks() -> dict[str, Tasks]:
    """The registered sources of tasks, by task name."""
    return {name: one for one in _registered(TASKS).values() for name in one.names()}


def model_names() -> list[str]:
    """The names of all models of the installed distributions, sorted."""
    return sorted(name for one in models().values() for name in one.names())


@lru_cache(None)
def _registered(group: str) -> dict[str, Any]:
    return {entry.name: entry.load() for entry in entry_points(group=group)}
