"""Divergences of the first token from the plain model's, by task and row, on paired bootstrap resamples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from illava.evaluation.metrics import Array, resample
from illava.evaluation.rows import PLAIN
from illava.evaluation.store import Line
from illava.evaluation.summary import shared_lines


def by_task(settings: Mapping[str, Any], lines: Sequence[Line], draws: int) -> dict[str, dict[str, Array]]:
    """Task -> row -> (1 + D,) statistic in nats: the mean over the questions that all rows have answered.

    Args:
        settings, lines: of a run; tasks without such questions are left out.
        draws: bootstrap resamples D, clustered by picture, as the library's accuracies are resampled.

    NaN if it is of any question.
    """
    found: dict[str, dict[str, Array]] = {}
    for task in settings["tasks"]:
        rows = shared_lines([line for line in lines if line["task"] == task], settings["rows"])
        if not rows[PLAIN.label]:
            continue
        clusters = [line["cluster"] or f"#{line['sample']}" for line in rows[PLAIN.label]]
        drawn = resample(clusters, settings["seed"], task, draws)
        found[task] = {
            label: drawn.mean([math.nan if line["kl"] is None else line["kl"] for line in some])
            for label, some in rows.items()
        }
    return found
