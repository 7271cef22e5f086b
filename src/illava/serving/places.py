"""The places of those who wait: a request without one is refused at once (back-pressure)."""

from __future__ import annotations

import threading


class Full(Exception):
    """All places are taken."""


class Places:
    """A bounded number of places, taken from any thread."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self._lock = threading.Lock()

    def take(self) -> Place:
        """A place. Raises Full."""
        with self._lock:
            if self.taken >= self.most:
                raise Full
            self.taken += 1
        return Place(self)

    def _leave(self, place: Place) -> None:
        with self._lock:
            self.taken -= place.held
            place.held = False


class Place:
    """One place, held until :meth:`leave`."""

    def __init__(self, places: Places) -> None:
        self.places, self.held = places, True

    def leave(self) -> None:
        """Give the place back. Idempotent."""
        self.places._leave(self)
