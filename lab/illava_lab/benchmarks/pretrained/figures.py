"""Accuracies, differences and times of the result files, with intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from illava.bench.timing import spread
from illava.evaluation.metrics import Array, Estimate, Resamples, estimate, mean_over_tasks, resample
from illava_lab.benchmarks.pretrained.readings import CELLS as BOARDS
from illava_lab.benchmarks.pretrained.readings import KNN, LINEAR, SAME
from illava_lab.benchmarks.pretrained.rows import PLAIN
from illava_lab.benchmarks.pretrained.settings import CELLS

READINGS = (
    BOARDS,
    SAME,
    LINEAR,
    KNN,
    f"{LINEAR}, weighted",
    f"{KNN}, weighted",
    f"{LINEAR}, few",
    f"{KNN}, few",
    f"{LINEAR}, alike",
    f"{KNN}, alike",
)
"""How features are read; "few" and "alike" differ in the references alone."""


@dataclass(frozen=True)
class Figures:
    """The figures of one size of pictures."""

    found: dict[str, Any]
    """A result file."""
    _drawn: dict[tuple[str, str], Resamples] = field(default_factory=dict)

    @property
    def side(self) -> int:
        return int(self.found["settings"]["side"])

    @property
    def labels(self) -> list[str]:
        """All rows but plain."""
        return list(self.found["rows"])

    def has(self, label: str, reading: str) -> bool:
        """Whether a row was read that way."""
        return reading in self.found["answers"].get(label, {})

    def accuracy(self, label: str, reading: str = BOARDS) -> Estimate:
        """In %, the mean over data sets, with a 95 % interval."""
        return estimate(self._statistic(label, reading))

    def points(self, label: str, against: str = PLAIN, reading: str = BOARDS, other: str = "") -> Estimate:
        """Points of accuracy that a row is ahead of another, paired; ``other``: how that one is read."""
        return estimate(self._statistic(label, reading) - self._statistic(against, other or reading))

    def time(self, label: str) -> dict[str, float]:
        """Time of the encoder relative to the plain one: median and extremes of the rounds."""
        if label == PLAIN:
            return {"median": 1.0, "low": 1.0, "high": 1.0}
        seconds = self.found["rows"][label]["seconds"]
        return vars(spread([row / plain for row, plain in seconds])).copy()

    def at(self, name: str, keep: str, block: int | None = None) -> str:
        """The label of a method's row."""
        for label, row in self.found["rows"].items():
            if (row["name"], row["keep"], row["block"]) == (name, keep, block):
                return str(label)
        raise KeyError(f"{name} {keep} was not measured at {self.side} px")

    def standard(self, keep: str, group: str | None = None) -> list[str]:
        """The rows of a budget outside the sweep over depths."""
        return [
            label
            for label, row in self.found["rows"].items()
            if row["keep"] == keep and row["block"] is None and group in (None, row["group"])
        ]

    def _statistic(self, label: str, reading: str) -> Array:
        sets = self.found["answers"][label][reading]
        return mean_over_tasks(
            [
                100 * self._resamples(reading, name, len(bits)).mean([bit == "1" for bit in bits])
                for name, bits in sets.items()
            ]
        )

    def _resamples(self, reading: str, name: str, count: int) -> Resamples:
        """Boards are drawn as wholes, since the cells of a board share its survivors."""
        kind = BOARDS if reading in (BOARDS, SAME) else "photographs"
        if (kind, name) not in self._drawn:
            clusters = [str(i // CELLS**2 if kind == BOARDS else i) for i in range(count)]
            self._drawn[kind, name] = resample(clusters, self.found["settings"]["seed"], f"{kind} {name}")
        return self._drawn[kind, name]


def to_csv(sides: Sequence[Figures]) -> str:
    """Every row and reading: accuracy, points against plain read the same way, and time."""
    lines = io.StringIO()
    head = ["pixels", "row", "method", "where", "keep", "block", "reading"]
    head += [f"{what}{end}" for what in ("accuracy", "points", "time") for end in ("", "_low", "_high")]
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(head)
    for figures in sides:
        for label in [PLAIN, *figures.labels]:
            row = figures.found["rows"].get(label, {"name": PLAIN, "group": PLAIN})
            place = [figures.side, label, row["name"], row["group"], row.get("keep"), row.get("block")]
            time = figures.time(label)
            for reading in READINGS:
                if not figures.has(label, reading):
                    continue
                # Features that are plain, weighted or compared with few references are read as such.
                base = reading.replace("weighted", "").replace("alike", "few").strip(", ")
                estimates = (
                    figures.accuracy(label, reading),
                    figures.points(label, PLAIN, reading, base),
                )
                ends = [_round(end) for e in estimates for end in (e.value, e.low, e.high)]
                writer.writerow(
                    [*place, reading, *ends, *(f"{time[end]:.3f}" for end in ("median", "low", "high"))]
                )
    return lines.getvalue()


def _round(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
