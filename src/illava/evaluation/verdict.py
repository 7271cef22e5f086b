"""The verdict of a comparison, in words: which methods are better than the reference, and how surely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .comparison import CLOCK, Figures, column, costs
from .metrics import LEAST_PLAIN, LEVEL
from .summary import escape

AXES = {
    CLOCK: "time to the first token / plain, predicted on the clock's shape",
    "ttft": "time to the first token / plain, measured",
    "flops": "FLOPs up to the first token / plain",
}
MOST_LISTED = 10
"""Rows of a model named in a sentence; the CSV file has all."""


def verdict(found: Figures) -> list[str]:
    """The result as Markdown, a bullet a statement; methods that beat the reference come first."""
    reference, made = f"*{escape(found['reference'])}*", found["comparisons"]
    by_chance = (1 - LEVEL) * made["made"]
    least = f"plain is below {100 * LEAST_PLAIN:g} % at every task"
    shared = dict.fromkeys(cost for model in found["models"].values() for cost in costs(model.get("clock")))
    statements = {
        **{f"No result for {model}": least for model in _unlearnt(found)},
        "Better, significantly": _listed(found, (1,), True),
        "Better, not significantly": _listed(found, (1,), False),
        f"Tasks with a better method, means over {over(found)}, not tested": _tasks(found),
        "Equal or worse, not significantly": _listed(found, (0, -1), False),
        "Worse, significantly": _listed(found, (-1,), True),
        **{f"Pareto front, {AXES[cost]}": _fronts(found, cost) for cost in shared},
        "Multiple testing": f"{made['made']} comparisons, about {by_chance:.1f} of them significant by "
        f"chance; significant: {made['significant']}, after Holm's correction: {made['hold']}",
    }
    return [
        f"Mean accuracy over tasks, in points, against {reference} at the same "
        f"{'time to the first token' if found.get('targets') else 'budget'}:",
        "",
        *(f"- **{title}:** {text}." for title, text in statements.items()),
    ]


def over(found: Figures) -> str:
    """What every method has a row for each of."""
    return "speed-ups" if found.get("targets") else "budgets"


def _unlearnt(found: Figures) -> Iterator[str]:
    """The models that are not good enough at any task."""
    for model, figures in found["models"].items():
        if not any(task["in_mean"] for task in figures["tasks"].values()):
            yield escape(model)


def _listed(found: Figures, signs: Sequence[int], significant: bool) -> str:
    """The rows whose difference has one of these signs and this significance, the largest one first."""
    models = []
    for model, figures in found["models"].items():
        compared = [row for row in figures["rows"] if row["p"] is not None]
        rows = [row for row in compared if _sign(row) in signs and row["significant"] == significant]
        rows.sort(key=lambda row: -row["difference"]["value"])
        if not rows:
            continue
        if significant and signs == (-1,):
            models.append(f"{escape(model)}: {len(rows)} of {len(compared)} rows")
            continue
        named = [f"{escape(row['label'])} {difference(row, not significant)}" for row in rows[:MOST_LISTED]]
        if len(rows) > MOST_LISTED:
            named.append(f"{len(rows) - MOST_LISTED} more")
        models.append(f"{escape(model)}: {', '.join(named)}")
    return "; ".join(models) or "none"


def _sign(row: Figures) -> int:
    value = row["difference"]["value"]
    return (value > 0) - (value < 0)


def _tasks(found: Figures) -> str:
    """Where the best other method answers more questions of a task than the reference, and by how much."""
    models = []
    for model, figures in found["models"].items():
        ahead = [
            f"{escape(task)} ({escape(best)} {value - ours:+.1f})"
            for task, (ours, best, value) in best_by_task(figures, found["reference"]).items()
            if ours is not None and best is not None and value is not None and value > ours
        ]
        if ahead:
            models.append(f"{escape(model)}: {', '.join(ahead)}")
    return "; ".join(models) or "none"


def best_by_task(
    figures: Figures, reference: str
) -> dict[str, tuple[float | None, str | None, float | None]]:
    """By task the accuracy of the reference, the best other method, and its accuracy.

    Accuracies are means over the budgets, or speed-ups, of the reference; methods without one of these do not
    take part.
    """
    answered = [row for row in figures["rows"] if column(row) and row["refused"] is None]
    budgets = {column(row) for row in answered if row["method"] == reference}
    methods: dict[str, list[Figures]] = {}
    for row in answered:
        if column(row) in budgets:
            methods.setdefault(row["method"], []).append(row)
    best: dict[str, tuple[float | None, str | None, float | None]] = {}
    for task in figures["tasks"]:
        means: dict[str, float] = {}
        for method, rows in methods.items():
            accuracies = [row["tasks"][task] for row in rows]
            if len(rows) == len(budgets) and None not in accuracies:
                means[method] = sum(accuracies) / len(accuracies)
        ours = means.pop(reference, None)
        first = max(means, key=lambda method: means[method], default=None)
        best[task] = ours, first, None if first is None else means[first]
    return best


def _fronts(found: Figures, cost: str) -> str:
    """The rows of each model's front, and how many of the reference's are among them."""
    models = []
    for model, figures in found["models"].items():
        front = figures["fronts"][cost]
        ours = [row["label"] for row in figures["rows"] if row["method"] == found["reference"]]
        on = sum(label in front for label in ours)
        named = f"{', '.join(map(escape, front))} ({on} of {len(ours)} rows of the reference)"
        models.append(f"{escape(model)}: {named if front else 'not measured'}")
    return "; ".join(models)


def difference(row: Figures, short: bool = False) -> str:
    """Points that a row is ahead of the reference, with interval, unless ``short``, and marks."""
    figure = row["difference"]
    ends = "" if short else f" ({figure['low']:+.1f} to {figure['high']:+.1f})"
    return f"{figure['value']:+.1f}{ends}{mark(row)}"


def mark(row: Figures) -> str:
    """One star where a row differs significantly from the reference, two where Holm's correction agrees."""
    return " \\*\\*" if row["holds"] else " \\*" if row["significant"] else ""
