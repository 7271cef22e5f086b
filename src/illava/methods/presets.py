"""Methods with settings of their own that have a name on the command line."""

from __future__ import annotations

from collections.abc import Callable

from .base import Method
from .illava import Illava


def presets() -> dict[str, Callable[[float], Method]]:
    """Every preset by name: a function from the budget, final visual tokens / all, to the method."""
    return {"illava-best": Illava.best}
