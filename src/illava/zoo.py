"""The trained models of illava-lab, by name. Empty if illava-lab is not installed."""

from __future__ import annotations

from pathlib import Path

from .plugins import INSTALL_LAB, LAB, LAB_MODELS, models


def names() -> list[str]:
    """Return the names that :func:`path` accepts, the best first; for example ``["zoo/L", "zoo/S"]``."""
    found = models().get(LAB_MODELS)
    return [] if found is None else list(found.names())


def path(name: str) -> Path:
    """Return the folder of the model ``name``, ready for ``from_pretrained``.

    Raises ValueError for an unknown name; the message lists the known names, or says what to install.
    """
    found = models().get(LAB_MODELS)
    if found is None:
        raise ValueError(f"{name} comes with {LAB}, which is not installed: {INSTALL_LAB}")
    return found.path(name)
