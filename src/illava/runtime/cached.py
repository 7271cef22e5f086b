"""Values computed once from an object that every layer of a call receives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Cached:
    """``cached(source, make)`` returns ``make()``, cached for later calls with the same object ``source``."""

    def __init__(self) -> None:
        # The source is stored with the value: as long as it exists, no other object can have its id.
        self._made: dict[int, tuple[Any, Any]] = {}

    def __call__(self, source: Any, make: Callable[[], T]) -> T:
        if id(source) not in self._made:
            self._made[id(source)] = (source, make())
        value: T = self._made[id(source)][1]
        return value

    def clear(self) -> None:
        """Remove all cached values."""
        self._made.clear()
