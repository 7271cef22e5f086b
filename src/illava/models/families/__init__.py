"""The supported model families. One file holds everything specific to a family, or to a few similar ones.

Every module of this package lists its families as ``ENTRIES``; a new file needs no registration elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from ...errors import UnsupportedError
from ..family import ANY, Family, Schedule
from ..unsupported import unsupported

__all__ = ["ANY", "FAMILIES", "Family", "Schedule", "family_of", "supported_families"]


def _entries() -> Iterator[Family]:
    for module in iter_modules(__path__):
        yield from import_module(f"{__name__}.{module.name}").ENTRIES


FAMILIES: dict[str, Family] = {family.model_type: family for family in _entries()}


def supported_families() -> tuple[str, ...]:
    """The transformers ``model_type`` names that :func:`illava.accelerate` supports."""
    return tuple(sorted(FAMILIES))


def family_of(config: Any) -> Family:
    """The family of a transformers model config. Raises UnsupportedError for other families."""
    model_type = getattr(config, "model_type", type(config).__name__)
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    stages = unsupported().get(model_type)
    reason = "" if stages is None else f": {stages}"
    raise UnsupportedError(
        f"model type {model_type!r} is not supported{reason}; supported are {', '.join(supported_families())}"
    )
