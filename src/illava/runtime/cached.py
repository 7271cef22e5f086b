"""Values derived once from an object that every layer of a call is handed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Cached:
    """``cached(source, make)`` is ``make()``, kept for later calls with the same object ``source``."""

    def __init__(self) -> None:
        # The source is held beside the value: as long as it lives, no other object can have its id.
        self._made: dict[int, tuple[Any, Any]] = {}

    def __call__(self, source: Any, make: Callable[[], T]) -> T:
        if id(source) not in self._made:
            self._made[id(source)] = (source, make())
        value: T = self._made[id(source)][1]
        return value

    def clear(self) -> None:
        """Forget everything, because what it was derived with has changed."""
        self._made.clear()
