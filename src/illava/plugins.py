"""Models, images and tasks of other distributions, found through entry points.

A distribution registers an object, usually a module, in one of three groups:

``illava.models``
    The name of the entry is the prefix of its model names, such as "zoo" for "zoo/L". The object has
    ``names()``, which lists all names, the best model first, and ``path(name)``, which returns the folder of
    a model and raises ValueError for an unknown name. Two functions are optional. ``default_for(images)``
    returns the model that commands use for these images (their names or files) if none is named, None for
    no opinion. If it returns a name that ``names()`` lacks, such as that of a model which has to be made
    first, commands use another model and print the ValueError that ``path`` raises for the name.
    ``example(name)`` returns an image and a question that show what a model can do, or None.
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

    It is that of the first provider, by prefix, that has one for them, else :data:`DEFAULT_MODEL`. A provider
    that fails, or whose model cannot be used, is passed over with a warning.
    """
    for prefix, provider in sorted(models().items()):
        if images and hasattr(provider, "default_for"):
            name = _chosen_by(prefix, provider, tuple(images))
            if name is not None:
                return name
    return DEFAULT_MODEL


def example(model: str) -> tuple[Path, str] | None:
    """The file of an image and a question that show what a registered model can do, or None.

    A provider that fails, or whose image is missing, counts as one without an example, with a warning.
    """
    prefix = model.partition("/")[0]
    show = getattr(models().get(prefix), "example", None)
    try:
        found = None if show is None else show(model)
        if found is None:
            return None
        name, question = found
        provider = images().get(name.partition("/")[0])
        file = Path(name if provider is None else provider.path(name))
        if not file.is_file():
            raise FileNotFoundError(f"there is no image {name}")
        if not isinstance(question, str):
            raise TypeError(f"the question is {question!r}")
    except Exception as error:
        _warn(f"{prefix}: its example for {model} cannot be used", error)
        return None
    return file, question


def _chosen_by(prefix: str, provider: Any, images: tuple[str, ...]) -> str | None:
    """What a provider's ``default_for`` chooses, if it is one of the provider's models; else a warning."""
    what = f"{prefix}: its choice of a model for {', '.join(images)} cannot be used"
    try:
        name = provider.default_for(images)
        if name is None or (isinstance(name, str) and name in provider.names()):
            return name
        what = f"the default for {', '.join(images)} would be {name}, which cannot be used"
        if not isinstance(name, str):
            raise TypeError(f"{prefix} must choose a name, not {name!r}")
        # It knows best why the model cannot be used, and how to get it.
        provider.path(name)
        raise ValueError(f"{prefix} does not list it")
    except Exception as error:
        _warn(what, error)
    return None


def _warn(what: str, error: Exception) -> None:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    warnings.warn(" ".join(f"{what}: {kind}{error}".split()), stacklevel=4)


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
