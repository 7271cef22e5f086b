"""The parts of the benchmark, in order of worth; each is a list of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..context import Context, Row
from . import batches, decoding, equality, profile, suite, times


@dataclass(frozen=True)
class Part:
    """One part: its rows in order of worth, and the seconds that the parts before it leave for it."""

    name: str
    rows: Callable[[Context], Iterable[Row]]
    reserve: float = 0.0


PARTS = {
    part.name: part
    for part in (
        Part("suite", suite.rows),
        Part("equality", equality.rows, 20),
        Part("times", times.rows, 100),
        Part("batches", batches.rows, 90),
        Part("decoding", decoding.rows, 130),
        Part("profile", profile.rows, 20),
    )
}
