"""Models, images and tasks of other distributions, found through entry points.

A distribution registers an object, usually a module, in one of three groups:

``illava.models``
    The name of the entry is the prefix of its model names, such as "zoo" for "zoo/L". The object has
    ``names()``, which lists all names, the best model first, and ``path(name)``, which returns the folder of
    a model and raises ValueError for an unknown name. Two functions are optional. ``default_for(images)``
    returns the model that commands use for these images (their names or files) if none is named, None for
    no opinion. ``example(name)`` returns an image and a question that show what a model can do, or None.
``illava.images``
    The same for images: the prefix is "demo" for "demo/word.png", and ``path(name)`` returns a file.
``illava.tasks``
    The object has ``names()`` and ``load(name, split=, seed=)``, which returns a task
    (:class:`illava.evaluation.rows.Task`) and raises ValueError for an unknown name, split or seed. If it has
    ``ON_REQUEST = True``, commands use its tasks only where they are named.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

MODELS, IMAGES, TASKS = "illava.models", "illava.images", "illava.tasks"
LAB = "illava-lab"
"""The distribution of the models ``zoo/S`` and ``zoo/L``, the images ``demo/...`` and the drawn tasks."""
INSTALL_LAB = f"pip install {LAB} (in a clone: pip install ./lab)"
LAB_MODELS, LAB_IMAGES = "zoo", "demo"
DEFAULT_MODEL = "zoo/L"
"""What commands use where no model is named and no provider has another one."""
DEFAULT_MODEL_HELP = "zoo/R where it has been made, else zoo/L; zoo/L for videos and drawn demo images"


class Models(Protocol):
    """Models, or images, by name."""

    def names(self) -> Sequence[str]:
        """All names, each with the prefix of the entry; the best first."""

    def path(self, name: str) -> Path:
        """The folder of a model, as ``save_pretrained`` writes it, or an image file. Raises ValueError."""


class Tasks(Protocol):
    """Tasks by name."""

    def names(self) -> Sequence[str]:
        """All names."""

    def load(self, name: str, split: str = "test", seed: int = 0) -> Any:
        """A task. Raises ValueError for an unknown name, split or seed."""


def prefixes() -> set[str]:
    """The prefixes of registered models' names. Imports nothing."""
    return {entry.name for entry in entry_points(group=MODELS)}


def models() -> dict[str, Models]:
    """All registered providers of models, by the prefix of the models' names."""
    return _registered(MODELS)


def images() -> dict[str, Models]:
    """All registered providers of images, by the prefix of the images' names."""
    return _registered(IMAGES)


def tasks() -> dict[str, Tasks]:
    """All registered providers of tasks, by the names of their tasks."""
    return {name: provider for provider in _registered(TASKS).values() for name in provider.names()}


def default_tasks() -> list[str]:
    """The names of the tasks that commands use where none is named."""
    return [name for name, provider in tasks().items() if not getattr(provider, "ON_REQUEST", False)]


def default_model(images: Sequence[str] = ()) -> str:
    """The model for images, by their names or files, where the user names none.

    It is that of the first provider, by prefix, that has one for them, else :data:`DEFAULT_MODEL`.
    """
    for _, provider in sorted(models().items()):
        choose = getattr(provider, "default_for", None)
        if images and choose is not None and (name := choose(tuple(images))) is not None:
            return str(name)
    return DEFAULT_MODEL


def example(model: str) -> tuple[str, str] | None:
    """An image, by its name or file, and a question that show what a registered model can do, or None."""
    show = getattr(models().get(model.partition("/")[0]), "example", None)
    return None if show is None else show(model)


def model_names() -> list[str]:
    """The names of all registered models, sorted."""
    return sorted(name for provider in models().values() for name in provider.names())


@lru_cache(None)
def _registered(group: str) -> dict[str, Any]:
    """Providers by the names of their entries. One that cannot be imported is left out, with a warning."""
    found = {}
    for entry in entry_points(group=group):
        try:
            provider = entry.load()
            provider.names()
        except Exception as error:
            # Another distribution's fault must not stop what has nothing to do with it.
            source = entry.dist.name if entry.dist is not None else entry.value
            warnings.warn(
                f"{source}: its entry {entry.name!r} in {group} cannot be used: "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )
        else:
            found[entry.name] = provider
    return found
