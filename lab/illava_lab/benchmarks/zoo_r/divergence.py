"""How far each method moves the first token at equal time, by groups of tasks, against the preset.

Accuracies need tasks that the plain model has learnt; divergences count in all of them, so they tell methods
apart on characters and places, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from illava.evaluation.comparison import ALPHA, DRAWS
from illava.evaluation.equal_time_page import heading
from illava.evaluation.metrics import Array, estimate, holm, mean_over_tasks, two_sided_p
from illava.evaluation.store import Line
from illava.evaluation.summary import escape, number, table
from illava.planning.equal_time import TOLERANCE

from . import kl
from .choice_figures import SPEEDS, method_and_speed
from .choose import minus

ALL = ""
"""The group of all tasks."""
Figures = dict[str, Any]


def measure(
    settings: Mapping[str, Any],
    lines: Sequence[Line],
    groups: Mapping[str, str],
    reference: str,
    draws: int = DRAWS,
) -> Figures:
    """By group, method and speed: the mean KL over tasks, and what it has more than the reference, paired.

    Args:
        settings, lines: of a run at equal time.
        groups: task -> group.

    Only rows whose ``speedups`` in the settings are at the speed, like that of the reference, are compared.
    Holm's correction covers all differences of all groups. Bootstrap resamples are clustered by picture.
    """
    at = {label for label, speedup in settings["speedups"].items() if _is_at(label, speedup)}
    drawn: dict[str, dict[str, list[Array]]] = {}
    for task, rows in kl.by_task(settings, lines, draws).items():
        for label, mean in rows.items():
            if method_and_speed(label) is not None:
                for group in {ALL, groups.get(task, ALL)}:
                    drawn.setdefault(group, {}).setdefault(label, []).append(mean)
    means = {
        group: {method_and_speed(label): mean_over_tasks(some) for label, some in rows.items()}
        for group, rows in drawn.items()
    }
    found: Figures = {}
    tested: dict[tuple[str, str, int], float] = {}
    for group, by_row in means.items():
        for (name, speed), mean in by_row.items():  # type: ignore[misc]
            entry: Figures = {"kl": float(mean[0]) if math.isfinite(mean[0]) else None}
            found.setdefault(group, {}).setdefault(name, {})[str(speed)] = entry
            ours = by_row.get((reference, speed))
            if name == reference or ours is None or not {f"{name} {speed}x", f"{reference} {speed}x"} <= at:
                continue
            more = minus(mean, ours)
            entry["more"] = estimate(more).to_dict()
            if (p := two_sided_p(more)) is not None:
                tested[group, name, speed] = p
    for (group, name, speed), p in zip(tested, holm(list(tested.values())), strict=True):
        found[group][name][str(speed)]["p"] = p
    return found


def _is_at(label: str, speedup: float | None) -> bool:
    named = method_and_speed(label)
    return named is not None and speedup is not None and abs(speedup / named[1] - 1) <= TOLERANCE


def section(found: Figures, reference: str) -> list[str]:
    """A table for each group, the lowest mean first."""
    lines = [
        "## What it does to the first token",
        "",
        "KL divergence of the first token's distribution from the plain model's, in nats, the mean over "
        f"tasks: at each speed-up, and what it is more than that of `{reference}` (95 % interval, paired by "
        f"question). Bold: p < {ALPHA:.2g} after Holm's correction over all of these tables.",
    ]
    for group in sorted(found):
        lines += ["", f"### {heading(group).capitalize() if group else 'All tasks'}", ""]
        lines += _table(found[group], reference)
    return lines


def _table(methods: Figures, reference: str) -> list[str]:
    def rank(name: str) -> tuple[int, float]:
        kls = [row["kl"] for row in methods[name].values() if row["kl"] is not None]
        return -len(kls), sum(kls) / max(1, len(kls))

    cells = [
        [
            f"*{escape(name)}*" if name == reference else escape(name),
            *(number(methods[name].get(str(speed), {}).get("kl"), ".3f") for speed in SPEEDS),
            *(_more(methods[name].get(str(speed), {})) for speed in SPEEDS),
        ]
        for name in sorted(methods, key=rank)
    ]
    speeds = [f"{speed}x" for speed in SPEEDS]
    return table(["", *speeds, *(f"{speed}: more" for speed in speeds)], cells)


def _more(row: Figures) -> str:
    more = row.get("more")
    if more is None or more["low"] is None:
        return "-"
    text = f"{more['value']:+.3f} ({more['low']:+.3f} to {more['high']:+.3f})"
    return f"**{text}**" if row.get("p", 1.0) < ALPHA else text
