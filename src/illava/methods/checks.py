"""Checks of the fields of methods. Each raises ValueError that says what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real


def check_share(name: str, share: object) -> float:
    """A number in (0, 1] as a float."""
    try:
        value = float("nan") if isinstance(share, bool) or not isinstance(share, Real) else float(share)
    except OverflowError:
        value = float("inf")
    if not 0 < value <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {share!r}")
    return value


def check_layers(name: str, layers: object, first: int = 0) -> tuple[int, ...]:
    """Ascending whole numbers from ``first`` up, without repeats."""
    if not isinstance(layers, Iterable):
        raise ValueError(f"{name} must be a tuple of whole numbers, got {layers!r}")
    values = tuple(layers)
    if any(isinstance(value, bool) or not isinstance(value, int) or value < first for value in values):
        raise ValueError(f"{name} must be whole numbers from {first} up, got {values}")
    if list(values) != sorted(set(values)):
        raise ValueError(f"{name} must be ascending without repeats, got {values}")
    return values


def check_count(name: str, value: object, least: int = 0, most: float = float("inf")) -> int:
    """A whole number from ``least`` up, to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} up, got {value!r}")
    return value


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """One of ``choices``."""
    if value not in (known := tuple(choices)):
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def check_layer_exists(name: str, layer: int, depth: int) -> None:
    """A layer of a model that has ``depth`` of them."""
    if layer >= depth:
        raise ValueError(f"{name}: this model has layers 0 to {depth - 1}, got {layer}")
