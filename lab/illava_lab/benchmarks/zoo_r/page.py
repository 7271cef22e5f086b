"""docs/zoo-r-figures.md, from what ``make zoo-r-figures`` measures and keeps in docs/zoo-r."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illava.evaluation.comparison import COSTS
from illava.evaluation.comparison_page import QUALITY, plot_name
from illava.evaluation.equal_time_page import heading
from illava.evaluation.metrics import LEAST_PLAIN
from illava.evaluation.rows import BLANK, PLAIN, TEXT_ONLY
from illava.evaluation.summary import escape, interval, number, table
from illava.evaluation.verdict import AXES
from illava_lab.benchmarks import former
from illava_lab.benchmarks.evidence.claims import factor

from . import claims
from .alone import BASELINES
from .claims import faster

FOLDER, PAGE = Path("docs/zoo-r"), Path("docs/zoo-r-figures.md")
COMPARISON, CONTEST, ALONE, TIMES = "comparison.json", "contest.json", "plain.json", "float32.json"
WISHES = (2, 3, 4)
"""Speed-ups of the first token, measured, for which the best method is named."""
Figures = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What was measured. None: not yet."""

    comparison: Figures
    """Of ``illava compare``."""
    plain: Figures | None = None
    """Of :mod:`.alone`."""
    times: Figures | None = None
    """Of :mod:`.times`, by model."""
    contest: Figures | None = None
    """Of :mod:`.contest`."""


def page(found: Found, plots: Sequence[str]) -> str:
    """The whole page. Raises ValueError if its parts were measured with other trained weights."""
    times = {name: part["trained"] for name, part in (found.times or {}).items()}
    trained = {COMPARISON: found.comparison["trained"], **times}
    trained |= {
        name: part["trained"]
        for name, part in ((ALONE, found.plain), (CONTEST, found.contest))
        if part is not None
    }
    if len({*trained.values()}) > 1:
        raise ValueError(f"figures of different trained weights: {trained}; measure all again")
    lines = [
        "# zoo/R: figures",
        "",
        "Written by `python -m illava_lab.benchmarks.zoo_r page` from the files in [`docs/zoo-r`](zoo-r), "
        "which `make zoo-r-figures` measures. The model, its data and its limits: [zoo-r.md](zoo-r.md).",
    ]
    models = found.comparison["models"]
    if then := former.note(row for figures in models.values() for row in figures["rows"]):
        lines += ["", then]
    if found.plain is not None:
        lines += ["", "## What it can do without merging", "", *alone(found.plain)]
    for model, figures in models.items():
        again = (found.times or {}).get(model)
        lines += ["", f"## {model}: at least as fast"]
        for part in fastest(figures, found.comparison["reference"], again):
            lines += ["", *part]
        lines += ["", f"## {model}: the paper's claims", "", *claims.lines(figures, again)]
        lines += ["", f"## {model}: what it can do", "", *plain_tasks(figures)]
        lines += ["", f"## {model}: every method", "", *methods(figures, again)]
        lines += ["", f"## {model}: every task, at 1/9 of the tokens", "", *by_task(figures)]
        for cost in COSTS:
            if plot_name(model, cost) in plots:
                lines += ["", f"![{model}: {QUALITY}, against {AXES[cost]}](zoo-r/{plot_name(model, cost)})"]
        lines += ["", *settings(figures, again)]
    if found.contest is not None:
        lines += ["", "## The larger merged against the smaller plain", "", *larger(found.contest)]
    return "\n".join(lines) + "\n"


def alone(plain: Figures) -> list[str]:
    """Accuracy of the plain model by task, with pictures, grey ones and none, and what sets them apart."""
    tasks, options = plain["tasks"], plain["settings"]
    cells = [
        [
            name + (" \\*\\*" if task["learnt"] else ""),
            str(task["questions"]),
            *(interval(task[part]) for part in (*BASELINES, "above")),
            number(task["guess"], ".0f"),
        ]
        for name, task in tasks.items()
    ]
    head = ["accuracy, %", "questions", *BASELINES, "plain - blank", "guessed"]
    learnt = sum(task["learnt"] for task in tasks.values())
    note = (
        f"\\*\\*: plain reaches {100 * LEAST_PLAIN:g} % and is above blank beyond the 95 % interval of their "
        f"difference: {learnt} of {len(tasks)} tasks. *guessed*: by always giving the likeliest answer to "
        "each kind of question, where they are drawn. Where all answers are right, or all are wrong, the "
        "interval of resampled questions has no width; 30 of 30 right are compatible with 88 % and more. "
        "*text only*: without a picture. "
        f"{options['model']}, {options['dtype']}, split {options['split']}."
    )
    return [*table(head, cells), "", note]


def fastest(figures: Figures, reference: str, again: Figures | None = None) -> list[list[str]]:
    """For each speed-up the row with the highest figure of those at least as fast, and the reference's.

    Once over all tasks and once over each group of them that has an interval. ``again``: times in another
    dtype, of which there is a second table.
    """
    ran = [row for row in figures["rows"] if row["options"] is not None and row["refused"] is None]
    parts = [[f"Times in {figures['settings']['dtype']}:", "", *_fastest(ran, figures["groups"], reference)]]
    if again is not None:
        timed = [{**row, "ttft": again["ttft"][row["label"]]} for row in ran if row["label"] in again["ttft"]]
        budgets = ", ".join(dict.fromkeys(row["budget"] for row in timed))
        title = f"Times in {again['dtype']}, of the rows at {budgets} alone:"
        parts.append([title, "", *_fastest(timed, figures["groups"], reference)])
    return [
        *parts,
        ["Of rows whose intervals overlap the highest need not be the best: the questions are few."],
    ]


def _fastest(ran: Sequence[Figures], groups: Sequence[str], reference: str) -> list[str]:
    lines = []
    for group in (None, *groups):
        title = "all tasks" if group is None else heading(group)
        if not any(_retained(row, group) for row in ran):
            continue
        for wish in WISHES:
            known = [row for row in ran if _at_least(row, wish) and _retained(row, group)]
            own = [row for row in known if row["method"] == reference]
            cells = [_highest(rows, group) for rows in (known, own)]
            lines.append([f"{title}, {wish}x", *cells])
    head = ["at least", "highest: retained above blank, speed-up", f"highest of {reference}"]
    return table(head, lines, 3)


def _highest(rows: Sequence[Figures], group: str | None) -> str:
    if not rows:
        return "none is that fast"
    row = max(rows, key=lambda row: _retained(row, group)["value"])
    return f"{escape(row['label'])}: {interval(_retained(row, group))} %, {faster(row['ttft'])}x"


def _at_least(row: Figures, wish: float) -> bool:
    share = row["ttft"]["value"]
    return share is not None and share <= 1 / wish


def _retained(row: Figures, group: str | None) -> Figures | None:
    """Accuracy above blank of a row, in % of plain's, over the tasks (of a group) that plain has learnt.

    None where it has no interval, because plain is hardly above blank.
    """
    found = row["above_blank"] if group is None else row["groups"].get(group)
    return None if found is None or found["low"] is None else found


def _row(figures: Figures, label: str) -> Figures:
    return next(row for row in figures["rows"] if row["label"] == label)


def plain_tasks(figures: Figures) -> list[str]:
    """Accuracy of the plain model by task, with pictures, with grey ones and without."""
    lines = []
    for name, task in figures["tasks"].items():
        cells = []
        for label in (PLAIN.label, BLANK.label, TEXT_ONLY.label):
            row = _row(figures, label)
            low, high = row["task_intervals"][name]
            cells.append(interval({"value": row["tasks"][name], "low": low, "high": high}))
        mark = "" if task["in_mean"] else " \\*"
        lines.append([name + mark, str(task["samples"]), *cells])
    head = ["accuracy, %", "questions", PLAIN.label, BLANK.label, TEXT_ONLY.label]
    note = (
        f"\\*: plain is below {100 * LEAST_PLAIN:g} %, so the task is in no mean. Brackets: 95 % intervals."
    )
    return [*table(head, lines), "", note]


def methods(figures: Figures, again: Figures | None = None) -> list[str]:
    """Every row that ran, the fastest first; ``again``: its times in another dtype."""
    rows = [row for row in figures["rows"] if row["options"] is not None and row["refused"] is None]
    rows.sort(key=lambda row: row["ttft"]["value"] or 1.0)
    cells = [
        [
            escape(row["label"]),
            interval(row["above_blank"]),
            faster(row["ttft"]),
            *([faster(again["ttft"].get(row["label"]))] if again else []),
            number(row["flops"], ".3f"),
            number(row["final_tokens"], ".0f"),
        ]
        for row in rows
    ]
    more = [f"in {again['dtype']}"] if again else []
    head = ["row", "above blank, %", "speed-up, first token", *more, "FLOPs / plain", "tokens"]
    lines = table(head, cells)
    refused = [
        f"{escape(row['label'])} ({escape(row['refused'])})" for row in figures["rows"] if row["refused"]
    ]
    return [*lines, "", f"Not run: {'; '.join(refused)}."] if refused else lines


def by_task(figures: Figures, budget: str = "1/9") -> list[str]:
    """Accuracy of every row at one budget by task, best first."""
    rows = [row for row in figures["rows"] if row["budget"] == budget and row["refused"] is None]
    rows.sort(key=lambda row: -(row["above_blank"]["value"] or 0))
    first = [_row(figures, label) for label in (PLAIN.label, BLANK.label)]
    names = list(figures["tasks"])
    cells = [
        [escape(row["label"]), *(number(row["tasks"].get(name), ".0f") for name in names)]
        for row in (*first, *rows)
    ]
    heads = [name.removeprefix("real-") for name in names]
    return table(["accuracy, %", *heads], cells)


def settings(figures: Figures, again: Figures | None = None) -> list[str]:
    """How and where it was measured."""
    options, timing = figures["settings"], figures["timing"]
    text = (
        f"{options['dtype']} on {options['device']}, split {options['split']}, at most {options['limit']} "
        f"questions a task, weights {options['weights']}, illava {options['illava']}."
    )
    if timing is not None and timing.get("machine"):
        place = timing["machine"]
        text += (
            f" Times: medians of {len(timing['prompts'])} prompts, rows in turn, threads: "
            f"{timing['threads']}, {place['cpu']}, torch {place['torch']}, "
            f"transformers {place['transformers']}."
        )
    if again is not None:
        text += (
            f" In {again['dtype']}: the first token of plain takes {again['plain']:.2f} s, threads: "
            f"{again['threads']}, {len(again['prompts'])} prompts, {again['machine']['cpu']}."
        )
    return [text]


def larger(contest: Figures) -> list[str]:
    """The contest as a table, whoever wins."""
    cells = [
        [
            label,
            interval(row["accuracy"]),
            interval(row["points"]),
            f"{row['milliseconds']:,.0f}",
            factor(row["times_faster"]),
            row["wins"],
        ]
        for label, row in contest["contestants"].items()
    ]
    head = [
        "",
        "accuracy, %",
        "points above R-224 plain",
        "ms an answer",
        "times faster",
        "better and faster",
    ]
    place = contest["machine"]
    note = (
        f"{contest['each']} questions of each of {', '.join(contest['tasks'])}; one prompt at a time, "
        f"contestants in turn, {contest['dtype']}, {place['cpu']}, torch {place['torch']}."
    )
    return [*table(head, cells), "", note]


def read(folder: Path) -> Found:
    """The figures in a folder. Raises FileNotFoundError without a comparison."""

    def held(name: str) -> Figures | None:
        path = folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    comparison = json.loads((folder / COMPARISON).read_text(encoding="utf-8"))
    return Found(comparison, held(ALONE), held(TIMES), held(CONTEST))
