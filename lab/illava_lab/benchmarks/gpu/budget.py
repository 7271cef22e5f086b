"""The time that is left, and whether a row of a predicted length still fits."""

from __future__ import annotations

import time
from collections.abc import Callable

SLOWEST, FASTEST = 4.0, 0.25
"""How far one row may correct the predictions of the rows after it."""


class Budget:
    """Counts down from a number of seconds; predictions of a part and kind are corrected by its last row."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.now, self.began = seconds, now, now()
        self._factors: dict[tuple[str, str], float] = {}

    def left(self) -> float:
        """Seconds left, negative if it is over."""
        return self.seconds - (self.now() - self.began)

    def expected(self, part: str, kind: str, predicted: float) -> float:
        """The prediction, corrected by how long the last row of this kind took in terms of its own."""
        return predicted * self._factors.get((part, kind), 1.0)

    def fits(self, part: str, kind: str, predicted: float, reserve: float = 0.0) -> bool:
        """Whether a row can be done and leave ``reserve`` seconds for others."""
        return self.expected(part, kind, predicted) <= self.left() - reserve

    def learn(self, part: str, kind: str, predicted: float, took: float) -> None:
        """Note how long a row took that was predicted to take ``predicted`` seconds."""
        if predicted > 0:
            self._factors[part, kind] = min(SLOWEST, max(FASTEST, took / predicted))
