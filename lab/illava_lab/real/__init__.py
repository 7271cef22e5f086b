"""zoo/R, a vision-language model of pretrained parts: DINOv2-small and SmolLM2-135M-Instruct.

``python -m illava_lab.real get`` fetches the parts and puts the model together in a cache folder.
"""

from __future__ import annotations

from pathlib import Path

from illava.errors import InputError

from . import cache, packages

VERSION = 3
"""Raise it when the assembled files change."""
BLOCKS = 9
"""The blocks of DINOv2-small that zoo/R uses, of 12. The package's file is the backbone of a saliency model,
whose last blocks tell things apart less well than the ninth (docs/pretrained.md)."""
SIZES = (224, 336, 448)
"""Pixels of the square that a picture is stretched to."""
TRAINED = Path(__file__).parent / "weights" / "trained.safetensors"
"""The trained weights that ship with the laboratory."""
HOW = "run `make zoo-real`, or `python -m illava_lab.real get`"

EXAMPLE = "demo/hopper.jpg", "Is there a hat in the picture?"
"""A photograph, and a question about it."""

_FOLDERS = {"zoo/R": f"R-{max(SIZES)}", **{f"zoo/R-{size}": f"R-{size}" for size in reversed(SIZES)}}
NAMES = tuple(_FOLDERS)
"""All names, the best first: ``zoo/R`` is the largest size."""


def names() -> list[str]:
    """The names that :func:`path` accepts: ``NAMES`` if the models were made of the shipped weights."""
    return [] if _problem() else list(NAMES)


def path(name: str) -> Path:
    """The folder of a model, ready for ``from_pretrained``.

    Raises ValueError for a name outside ``NAMES``, and if the model has not been made.
    """
    if name not in _FOLDERS:
        raise ValueError(f"no model named {name!r}; there are {', '.join(NAMES)}")
    if problem := _problem():
        raise ValueError(problem)
    return folder(cache.root()) / _FOLDERS[name]


def folder(where: Path) -> Path:
    """Where the models of all sizes are in the cache ``where``."""
    return where / "zoo"


def key() -> str:
    """What the models are made from, as a hash. Raises OSError without the trained weights."""
    return cache.key(version=VERSION, parts=packages.keys(), trained=cache.sha256(TRAINED))


def _problem() -> str | None:
    """Why the models cannot be used, and what to do, in one line; or None."""
    try:
        made = cache.stamped(folder(cache.root()))
    except InputError as error:
        return str(error)
    if made is None:
        return f"it has not been made on this machine: {HOW}"
    try:
        return None if made == key() else f"it was made from other weights than those that ship now: {HOW}"
    except OSError:
        return f"the trained weights are missing ({TRAINED}); a complete checkout of the repository has them"
