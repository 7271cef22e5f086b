"""Differences in accuracy between rows of one evaluation, paired by sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .metrics import DRAWS, LEAST_PLAIN, Array, Estimate, estimate, mean_over_tasks, resample
from .rows import PLAIN
from .store import Line
from .summary import shared_lines


def difference(
    lines: Iterable[Line], ones: Sequence[str], others: Sequence[str], seed: int = 0, draws: int = DRAWS
) -> tuple[Estimate, dict[str, Estimate]]:
    """The accuracy of rows ``ones`` minus that of rows ``others`` in points, each the mean over its rows.

    Both are resampled together, by clusters. Only samples that all these rows and the plain model have
    answered count. The mean over tasks includes only tasks at which the plain model reaches ``LEAST_PLAIN``.

    Returns the mean over tasks, and the difference by task.
    """
    wanted = {PLAIN.label, *ones, *others}
    tasks: dict[str, dict[int, dict[str, Line]]] = {}
    for line in lines:
        if line["row"] in wanted:
            tasks.setdefault(line["task"], {}).setdefault(line["sample"], {})[line["row"]] = line
    by_task, counted = {}, []
    for name, answered in sorted(tasks.items()):
        samples = [rows for _, rows in sorted(answered.items()) if set(rows) == wanted]
        if not samples:
            continue
        clusters = [rows[PLAIN.label]["cluster"] or f"#{rows[PLAIN.label]['sample']}" for rows in samples]
        drawn = resample(clusters, seed, name, draws)

        def accuracy(labels: Sequence[str], samples=samples, drawn=drawn) -> Array:  # type: ignore[no-untyped-def]
            return drawn.mean(
                [float(np.mean([rows[label]["correct"] for label in labels])) for rows in samples]
            )

        statistic = 100 * (accuracy(ones) - accuracy(others))
        by_task[name] = estimate(statistic)
        if accuracy([PLAIN.label])[0] >= LEAST_PLAIN:
            counted.append(statistic)
    return estimate(mean_over_tasks(counted)), by_task


def mean_accuracies(
    settings: dict[str, Any], lines: Iterable[Line], tasks: Sequence[str], draws: int = DRAWS
) -> dict[str, Array]:
    """(1 + draws,) statistic of every row: its accuracy in %, the mean over ``tasks``, all paired.

    To compare many rows with one another, where :func:`difference` compares two groups. Only samples that
    every row has answered count. Without tasks it is NaN.
    """
    by_task: dict[str, list[Line]] = {name: [] for name in tasks}
    for line in lines:
        by_task.get(line["task"], []).append(line)
    accuracies: dict[str, list[Array]] = {label: [] for label in settings["rows"]}
    for name, some in by_task.items():
        table = shared_lines(some, settings["rows"])
        clusters = [line["cluster"] or f"#{line['sample']}" for line in table[PLAIN.label]]
        drawn = resample(clusters, settings["seed"], name, draws)
        for label, row in table.items():
            accuracies[label].append(100 * drawn.mean([line["correct"] for line in row]))
    return {label: mean_over_tasks(statistics) for label, statistics in accuracies.items()}
