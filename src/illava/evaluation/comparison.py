"""The results of a comparison of methods: every row of every model, relative to a reference method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..planning.equal_time import TOLERANCE
from .compare import mean_accuracies
from .metrics import LEVEL, estimate, holm, retained_above_blank, two_sided_p
from .pareto import Point, front
from .rows import BLANK, PLAIN, Row, budget
from .store import Line
from .summary import ESTIMATES, MEANS, summarise

DRAWS = 20_000
"""Bootstrap resamples of differences. The smallest p-value is 2 / DRAWS before Holm's correction."""
ALPHA = 1 - LEVEL
TIMES = ("encoder", "prefill", "ttft")
"""The timed parts, reported relative to the plain model."""
COSTS = ("ttft", "flops")
"""The costs that quality is plotted against."""
CLOCK = "clock"
"""In a comparison at equal time of another shape: the time predicted there, a further cost."""
HOW_TIMED = ("prompts", "threads", "dtype", "machine", "turns")
"""What is known of how the times were measured."""
OFF_BUDGET = 0.01
"""Rows that miss their budget by more than this share of it are marked."""

Figures = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """The measurements of one model."""

    rows: Sequence[Row]
    """All rows requested, without plain and blank."""
    refused: Mapping[str, str]
    """The rows that could not run: label -> reason."""
    settings: dict[str, Any]
    lines: Sequence[Line]
    timing: dict[str, Any] | None
    """As :func:`illava.evaluation.speed.measure_rows` returns it."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Task -> group; see :class:`illava.evaluation.rows.Task`."""
    clock: str | None = None
    """In a comparison at equal time: the shape whose predicted time counts; None: this model's own."""
    targets: Sequence[float] = ()
    """In a comparison at equal time: the speed-ups requested."""


def compare(models: Mapping[str, Measured], reference: str, draws: int = DRAWS) -> Figures:
    """All results of a comparison, JSON-ready.

    Every row is compared with the row of method ``reference`` at the same budget, or speed-up, on the same
    model: the difference of their mean accuracies over tasks, with a paired bootstrap interval clustered by
    image and a two-sided p-value. Holm's correction covers all comparisons of all models.
    """
    found = {name: _model(measured, reference, draws) for name, measured in models.items()}
    tested = [row for model in found.values() for row in model["rows"] if row["p"] is not None]
    for row, corrected in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = corrected
        row["significant"], row["holds"] = row["p"] < ALPHA, corrected < ALPHA
    return {
        "reference": reference,
        "draws": draws,
        "targets": sorted({target for measured in models.values() for target in measured.targets}),
        "comparisons": {
            "made": len(tested),
            "significant": sum(row["significant"] for row in tested),
            "hold": sum(row["holds"] for row in tested),
        },
        "models": found,
    }


def _model(measured: Measured, reference: str, draws: int) -> Figures:
    settings, timing = measured.settings, measured.timing
    summary = summarise(settings, measured.lines)
    counted = [name for name, task in summary["tasks"].items() if task["in_mean"]]
    accuracies = mean_accuracies(settings, measured.lines, counted, draws)
    # Fixed schedules have no budget.
    references = {
        row.column: row.label for row in measured.rows if row.name == reference and row.column is not None
    }
    groups = _by_group(measured, counted, draws)
    out = []
    for row in (PLAIN, BLANK, *measured.rows):
        figures = _row(row, measured.refused.get(row.label))
        if row.label not in measured.refused:
            mean = summary["mean"][row.label]
            figures |= {key: mean[key] for key in (*ESTIMATES, *MEANS)}
            figures["off_budget"] = off_budget(row, mean["final_tokens"], mean["visual_tokens"])
            if timing is not None and row.label in timing["rows"]:
                faster = timing["rows"][row.label]["faster"]
                figures |= {part: share(faster[part]) for part in TIMES}
            figures["missed"] = missed(row, figures["ttft"]["value"], measured.clock)
            figures["groups"] = {name: rows[row.label] for name, rows in groups.items()}
            other = references.get(row.column) if row.method is not None and row.name != reference else None
            if other in accuracies:
                # Rounded, because sums over tasks leave rounding errors where differences are exactly zero.
                points = np.round(accuracies[row.label] - accuracies[other], 9)
                figures |= {"difference": estimate(points).to_dict(), "p": two_sided_p(points)}
            accuracy = {name: task["rows"][row.label]["accuracy"] for name, task in summary["tasks"].items()}
            figures["tasks"] = {name: figure["value"] for name, figure in accuracy.items()}
            figures["task_intervals"] = {
                name: [figure["low"], figure["high"]] for name, figure in accuracy.items()
            }
        out.append(figures)
    tasks = {
        name: {key: task[key] for key in ("samples", "pictures", "in_mean")}
        for name, task in summary["tasks"].items()
    }
    return {
        "settings": settings,
        "tasks": tasks,
        "timing": timing and {key: timing.get(key) for key in HOW_TIMED},
        "rows": out,
        "clock": measured.clock,
        "groups": list(groups),
        "fronts": {
            cost: [point.label for point in front(points_of(out, cost))] for cost in costs(measured.clock)
        },
    }


def _by_group(measured: Measured, counted: Sequence[str], draws: int) -> dict[str, dict[str, Figures]]:
    """Group of tasks -> row -> the accuracy retained above blank over the group's counted tasks."""
    found = {}
    for group in sorted({*measured.groups.values()} - {""}):
        tasks = [name for name in counted if measured.groups.get(name) == group]
        if tasks:
            accuracies = mean_accuracies(measured.settings, measured.lines, tasks, draws)
            ends = accuracies[PLAIN.label], accuracies[BLANK.label]
            found[group] = {
                label: estimate(retained_above_blank(accuracy, *ends)).to_dict()
                for label, accuracy in accuracies.items()
            }
    return found


def missed(row: Row, ttft: float | None, clock: str | None) -> bool | None:
    """Whether a row's speed-up differs from its target by more than ``TOLERANCE``; None if it has none.

    Args:
        ttft: the measured time to the first token, as a share of the plain model's.
        clock: the shape whose prediction counts instead.
    """
    speedup = row.expected if clock is not None else None if ttft is None else 1 / ttft
    if row.target is None or row.ends or speedup is None:
        return None
    return abs(speedup / row.target - 1) > TOLERANCE


def column(row: Figures) -> float | None:
    """What rows have in common if they can be compared; see :attr:`illava.evaluation.rows.Row.column`."""
    if row.get("ends"):
        return None
    keep: float | None = row["keep"] if row.get("target") is None else row["target"]
    return keep


def _row(row: Row, refused: str | None) -> Figures:
    """The identity of a row, with None for all results."""
    unknown = {"value": None, "low": None, "high": None}
    return {
        "label": row.label,
        "method": row.name or row.label,
        "keep": None if row.method is None else row.keep,
        "budget": None if row.method is None or row.keep is None else budget(row.keep),
        "options": None if row.method is None else row.method.to_dict(),
        "refused": refused,
        "target": row.target,
        "ends": row.ends,
        "expected": row.expected,
        CLOCK: None if row.expected is None else 1 / row.expected,
        "missed": None,
        "groups": {},
        **{key: dict(unknown) for key in ESTIMATES},
        **dict.fromkeys(MEANS),
        "off_budget": None,
        **{part: dict(unknown) for part in TIMES},
        "difference": dict(unknown),
        "p": None,
        "p_holm": None,
        "significant": None,
        "holds": None,
        "tasks": {},
        "task_intervals": {},
    }


def off_budget(row: Row, final: float | None, visual: float | None) -> bool | None:
    """Whether a row misses its budget, keeping more or fewer tokens; None if it has none to meet."""
    if row.method is None or row.keep is None or row.target is not None or final is None or visual is None:
        return None
    target = row.keep * visual
    return abs(final - target) > OFF_BUDGET * target


def share(faster: Mapping[str, Any]) -> dict[str, float | None]:
    """A row's time as a share of the plain model's, from its speed-up."""
    low, high = faster["interval"] or (None, None)

    def inverse(times: float | None) -> float | None:
        return 1 / times if times and math.isfinite(times) else None

    return {"value": inverse(faster["median"]), "low": inverse(high), "high": inverse(low)}


def costs(clock: str | None) -> tuple[str, ...]:
    """The costs that quality is plotted against, given the shape whose predicted time counts, if any."""
    return COSTS if clock is None else (CLOCK, *COSTS)


def points_of(rows: Sequence[Figures], cost: str) -> list[Point]:
    """The plain model and all methods as points of one of ``COSTS`` and the accuracy retained above blank."""
    points = []
    for row in rows:
        x, y = row.get(cost), row["above_blank"]
        if not isinstance(x, dict):
            x = {"value": x, "low": None, "high": None}
        plain = row["label"] == PLAIN.label
        if plain and cost == CLOCK:
            x["value"] = 1.0
        if (row["options"] is None and not plain) or None in (x["value"], y["value"]):
            continue
        ends = (x["low"], x["high"]), (y["low"], y["high"])
        points.append(Point(row["label"], row["method"], x["value"], y["value"], *ends))
    return points
