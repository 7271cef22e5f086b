"""What the preset's choice is made from: accuracy, divergence and speed of every method, and its parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from illava.evaluation.compare import mean_accuracies
from illava.evaluation.equal_time import FILE_NAME as BUDGETS
from illava.evaluation.metrics import LEAST_PLAIN, Array, mean_over_tasks
from illava.evaluation.rows import PLAIN
from illava.evaluation.store import ANSWERS, SETTINGS, Line
from illava.evaluation.summary import shared_lines
from illava.planning.equal_time import TOLERANCE

from . import kl

SPEEDS = (2, 3, 4)


@dataclass(frozen=True)
class Figures:
    """One method at one speed."""

    accuracy: Array
    """(1 + D,) statistic in %, the mean over the tasks that plain has learnt."""
    kl: Array
    """(1 + D,) statistic in nats, the mean over all tasks; NaN if it is of any sample."""
    speedup: float | None
    """To the first token, by the measurements that the budget was chosen by; None if there were none."""

    def reaches(self, speed: float) -> bool:
        """Whether it is at most TOLERANCE slower."""
        return self.speedup is not None and self.speedup >= speed * (1 - TOLERANCE)

    def is_at(self, speed: float) -> bool:
        """Whether it is at most TOLERANCE slower or faster."""
        return self.speedup is not None and abs(self.speedup / speed - 1) <= TOLERANCE


Measured = Mapping[str, Mapping[int, Figures]]
"""By method and speed; speeds that a method does not have are missing."""


def mean_kl(by_speed: Mapping[int, Figures]) -> Array:
    """(1 + D,) statistic in nats: the mean over the speeds."""
    return mean_over_tasks([found.kl for found in by_speed.values()])


def parts(options: Mapping[str, Any]) -> tuple[int, bool, bool] | None:
    """How simple a method is; of two, the simpler one has the smaller tuple.

    Args:
        options: of a method, as ``to_dict`` returns them.

    Returns the number of steps in the encoder, whether there is one in the LLM, and whether units have a
    score in the encoder; None for other methods than Illava, and for published layers, whose number depends
    on the model.
    """
    if options["method"] != "illava":
        return None
    blocks, layers = options["encoder_layers"], options["llm_layers"]
    known = {"middle": 1, "late": 3}
    if None in (blocks, layers) and options["where"] not in known:
        return None
    scored = options["experimental"].get("encoder_score") != "none"
    return (
        known[options["where"]] if blocks is None else len(blocks),
        layers is None or len(layers) > 0,
        scored,
    )


def method_and_speed(label: str) -> tuple[str, int] | None:
    """Of a row at equal time; None for others, as for the end of a method that is slower, "(its most)"."""
    name, _, target = label.rpartition(" ")
    return next(((name, speed) for speed in SPEEDS if target == f"{speed}x"), None)


def figures_of(settings: dict[str, Any], lines: Sequence[Line], draws: int) -> dict[str, dict[int, Figures]]:
    """The figures of all rows at equal time, by method and speed, all paired.

    Args:
        settings, lines: as :func:`read` returns them.
        draws: bootstrap resamples.

    Raises ValueError where plain has learnt none of the tasks.
    """
    by_task = {
        task: shared_lines([line for line in lines if line["task"] == task], settings["rows"])
        for task in settings["tasks"]
    }
    by_task = {task: rows for task, rows in by_task.items() if rows[PLAIN.label]}
    learnt = [
        task
        for task, rows in by_task.items()
        if np.mean([line["correct"] for line in rows[PLAIN.label]]) >= LEAST_PLAIN
    ]
    if not learnt:
        raise ValueError(f"plain reaches {100 * LEAST_PLAIN:g} % at none of the tasks: nothing can be chosen")
    accuracies = mean_accuracies(settings, lines, learnt, draws)
    divergences: dict[str, list[Array]] = {}
    for means in kl.by_task(settings, lines, draws).values():
        for label, mean in means.items():
            if method_and_speed(label) is not None:
                divergences.setdefault(label, []).append(mean)
    found: dict[str, dict[int, Figures]] = {}
    for label, statistics in divergences.items():
        name, speed = method_and_speed(label) or ("", 0)
        speedup = settings["speedups"].get(label)
        found.setdefault(name, {})[speed] = Figures(accuracies[label], mean_over_tasks(statistics), speedup)
    return found


def read(folder: Path) -> tuple[dict[str, Any], list[Line]]:
    """Settings and answers of the run in the folder of one model.

    The settings have the measured speed-ups to the first token by row, as ``speedups``, and how they were
    measured, as ``timing``. Raises FileNotFoundError.
    """
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    budgets = json.loads((folder / BUDGETS).read_text(encoding="utf-8"))
    settings["timing"] = budgets["identity"]
    settings["speedups"] = {
        f"{name} {target}x": row["speedup"]
        for name, rows in budgets["rows"].items()
        for target, row in rows.items()
        if not row["ends"]
    }
    with (folder / ANSWERS).open(encoding="utf-8") as lines:
        return settings, [json.loads(line) for line in lines if line.strip()]
