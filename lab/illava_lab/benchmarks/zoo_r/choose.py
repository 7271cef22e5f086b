"""The preset's choice among candidates on zoo/R, by a rule that was written before anything was measured.

It reads what ``illava compare --speedup 2 3 4 --split val`` wrote, see ``make zoo-r-choice``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from illava.evaluation.compare import mean_accuracies
from illava.evaluation.metrics import LEAST_PLAIN, Array, estimate
from illava.evaluation.rows import PLAIN
from illava.evaluation.store import ANSWERS, SETTINGS, Line
from illava.evaluation.summary import number, shared_lines, table

SPEEDS = (2, 3, 4)
RULE = (
    "Among the candidates that reach 2x, 3x and 4x and are at none of them significantly less accurate than "
    "the most accurate candidate there, the one with the lowest KL of the first token's distribution from "
    "the plain model's, averaged over all tasks, text and places included, and over the three speeds."
)
HEAD = ("", *(f"{speed}x: points" for speed in SPEEDS), *(f"{speed}x: KL" for speed in SPEEDS), "mean KL")


@dataclass(frozen=True)
class Figures:
    """One method at one speed."""

    accuracy: Array
    """(1 + D,) statistic in %, the mean over the tasks that plain has learnt."""
    kl: float
    """Nats, the mean over all tasks."""


@dataclass(frozen=True)
class Choice:
    """What was measured, and what follows from it."""

    figures: dict[str, dict[int, Figures]]
    """By method and speed; a speed that a method does not reach is missing."""
    worse: dict[str, tuple[int, ...]]
    """The speeds at which a candidate is significantly less accurate than the most accurate one."""
    chosen: str | None
    """None if no candidate is left."""


def choose(settings: Mapping[str, Any], lines: Iterable[Line], candidates: Sequence[str]) -> Choice:
    """Apply :data:`RULE`.

    Args:
        settings, lines: of a run at equal time; other methods may be among its rows.
        candidates: names of methods that may be chosen.

    Raises ValueError where plain has learnt none of the tasks.
    """
    lines = list(lines)
    figures = _figures(dict(settings), lines)
    able = [name for name in candidates if set(figures.get(name, ())) == set(SPEEDS)]
    worse = {name: tuple(speed for speed in SPEEDS if _worse(figures, able, name, speed)) for name in able}
    left = [name for name in able if not worse[name]]
    return Choice(figures, worse, min(left, key=lambda name: mean_kl(figures[name]), default=None))


def mean_kl(by_speed: Mapping[int, Figures]) -> float:
    """The mean over the speeds."""
    return float(np.mean([found.kl for found in by_speed.values()]))


def _worse(figures: Mapping[str, Mapping[int, Figures]], able: Sequence[str], name: str, speed: int) -> bool:
    best = max(able, key=lambda other: figures[other][speed].accuracy[0])
    difference = estimate(figures[name][speed].accuracy - figures[best][speed].accuracy)
    return difference.high is not None and difference.high < 0


def _figures(settings: dict[str, Any], lines: list[Line]) -> dict[str, dict[int, Figures]]:
    by_task: dict[str, dict[str, list[Line]]] = {
        task: shared_lines([line for line in lines if line["task"] == task], settings["rows"])
        for task in settings["tasks"]
    }
    learnt = [
        task
        for task, rows in by_task.items()
        if rows[PLAIN.label] and np.mean([line["correct"] for line in rows[PLAIN.label]]) >= LEAST_PLAIN
    ]
    if not learnt:
        raise ValueError(f"plain reaches {100 * LEAST_PLAIN:g} % at none of the tasks: nothing can be chosen")
    accuracies = mean_accuracies(settings, lines, learnt)
    found: dict[str, dict[int, Figures]] = {}
    for speed in SPEEDS:
        for label in settings["rows"]:
            # As rows at equal time are labelled; the end of a method that is slower reads "(its most)".
            name, _, target = label.rpartition(" ")
            if target == f"{speed}x":
                divergences = [
                    np.nanmean([np.nan if line["kl"] is None else line["kl"] for line in rows[label]])
                    for rows in by_task.values()
                    if rows[label]
                ]
                figures = Figures(accuracies[label], float(np.mean(divergences)))
                found.setdefault(name, {})[speed] = figures
    return found


def opening(settings: Mapping[str, Any]) -> list[str]:
    """What the page says before the table."""
    return [
        "# The choice of the preset on zoo/R",
        "",
        "Written by `python -m illava_lab.benchmarks.zoo_r choose` from what `make zoo-r-choice` measures. "
        "The candidates are defined in `illava_lab/real/candidates.py`.",
        "",
        f"The rule, written before anything was measured: {RULE[0].lower()}{RULE[1:]}",
        "",
        f"Validation split, at most {settings['limit']} questions a task, {len(settings['tasks'])} tasks, "
        f"{settings['dtype']} on {settings['device']}, weights {settings['weights']}. *points*: of accuracy, "
        "against the most accurate candidate at that speed, the mean over the tasks that plain gets right at "
        f"least {100 * LEAST_PLAIN:g} % of the time, paired; bold: the 95 % interval excludes 0.",
    ]


def page_lines(choice: Choice, candidates: Sequence[str]) -> list[str]:
    """The table, best first, with points of accuracy against the most accurate candidate; then the result."""
    best = {
        speed: max(
            (
                rows[speed].accuracy
                for name, rows in choice.figures.items()
                if name in candidates and speed in rows
            ),
            key=lambda accuracy: float(accuracy[0]),
            default=None,
        )
        for speed in SPEEDS
    }
    complete = [name for name, rows in choice.figures.items() if set(rows) == set(SPEEDS)]
    order = sorted(complete, key=lambda name: mean_kl(choice.figures[name]))
    cells = []
    for name in [*order, *(name for name in choice.figures if name not in complete)]:
        rows = choice.figures[name]
        points = [_points(rows.get(speed), best[speed]) for speed in SPEEDS]
        divergences = [number(rows[speed].kl if speed in rows else None, ".3f") for speed in SPEEDS]
        total = number(mean_kl(rows) if name in complete else None, ".3f")
        shown = name if name in candidates else f"*{name}*"
        cells.append([f"**{shown}**" if name == choice.chosen else shown, *points, *divergences, total])
    result = f"Chosen: `{choice.chosen}`." if choice.chosen else "No candidate is left."
    return [
        *table(HEAD, cells),
        "",
        "*Italics*: not among the candidates. -: does not reach that speed.",
        "",
        result,
    ]


def _points(figures: Figures | None, best: Array | None) -> str:
    if figures is None or best is None:
        return "-"
    found = estimate(figures.accuracy - best)
    if found.low is None or found.high is None:
        return number(found.value, "+.1f")
    text = f"{found.value:+.1f} ({found.low:+.1f} to {found.high:+.1f})"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def read(folder: Path) -> tuple[dict[str, Any], list[Line]]:
    """Settings and answers of the run in the folder of one model. Raises FileNotFoundError."""
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    with (folder / ANSWERS).open(encoding="utf-8") as lines:
        return settings, [json.loads(line) for line in lines if line.strip()]
