"""Checks of the fields of methods. Each raises a ValueError that states the accepted values."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real


def check_share(name: str, share: object) -> float:
    """Check for a number in (0, 1], and return it as a float."""
    try:
        value = float("nan") if isinstance(share, bool) or not isinstance(share, Real) else float(share)
    except OverflowError:
        value = float("inf")
    if not 0 < value <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {share!r}")
    return value


def check_layers(name: str, layers: object, first: int = 0) -> tuple[int, ...]:
    """Check for distinct whole numbers from ``first`` up, in ascending order."""
    if not isinstance(layers, Iterable):
        raise ValueError(f"{name} must be a tuple of whole numbers, got {layers!r}")
    values = tuple(layers)
    if any(isinstance(value, bool) or not isinstance(value, int) or value < first for value in values):
        raise ValueError(f"{name} must be whole numbers from {first} up, got {values}")
    if list(values) != sorted(set(values)):
        raise ValueError(f"{name} must be ascending without repeats, got {values}")
    return values


def check_count(name: str, value: object, least: int = 0, most: float = float("inf")) -> int:
    """Check for a whole number in [``least``, ``most``]."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} up, got {value!r}")
    return value


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Check for one of ``choices``."""
    if value not in (known := tuple(choices)):
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def check_layer_exists(name: str, layer: int, depth: int) -> None:
    """Check that a model with ``depth`` layers has this layer."""
    if layer >= depth:
        raise ValueError(f"{name}: this model has layers 0 to {depth - 1}, got {layer}")
