"""Differences between rows of one evaluation, paired sample by sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .metrics import LEAST_PLAIN, Array, Estimate, estimate, mean_over_tasks, resample
from .rows import PLAIN
from .store import Line


def difference(
    lines: Iterable[Line], ones: Sequence[str], others: Sequence[str], seed: int = 0
) -> tuple[Estimate, dict[str, Estimate]]:
    """Accuracy of rows ``ones`` minus that of ``others``, in points, each the mean of its rows.

    Paired: both are resampled together, by clusters. Only samples that all these rows and the plain model
    have answered count, and in the mean over tasks only tasks that the plain model is good enough at.

    Returns the mean over tasks, and the difference task by task.
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
        drawn = resample(clusters, seed, name)

        def accuracy(labels: Sequence[str], samples=samples, drawn=drawn) -> Array:  # type: ignore[no-untyped-def]
            return drawn.mean(
                [float(np.mean([rows[label]["correct"] for label in labels])) for rows in samples]
            )

        statistic = 100 * (accuracy(ones) - accuracy(others))
        by_task[name] = estimate(statistic)
        if accuracy([PLAIN.label])[0] >= LEAST_PLAIN:
            counted.append(statistic)
    return estimate(mean_over_tasks(counted)), by_task
