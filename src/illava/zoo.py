"""The trained models of illava-lab, by name; where it is not installed there are none."""

from __future__ import annotations

from pathlib import Path

from .plugins import LAB, LAB_MODELS, models


def names() -> list[str]:
    """Return the names that :func:`path` accepts, sorted, for example ``["zoo/L", "zoo/S"]``."""
    found = models().get(LAB_MODELS)
    return [] if found is None else sorted(found.names())


def path(name: str) -> Path:
    """Return the folder of the model ``name``, ready for ``from_pretrained``.

    Raises ValueError when there is no model of that name, naming those that there are, or what to install.
    """
    found = models().get(LAB_MODELS)
    if found is None:
        raise ValueError(f"{name} comes with {LAB}, which is not installed: pip install {LAB}")
    return found.path(name)
