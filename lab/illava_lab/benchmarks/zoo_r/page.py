"""docs/zoo-r-figures.md, from what ``illava compare`` and the contest wrote into docs/zoo-r.

``make zoo-r-first`` measures some methods at 1/9 in half an hour, ``make zoo-r-figures`` all of them at four
budgets in hours; the page is of the one that ran last and says which.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from illava.evaluation.comparison import COSTS
from illava.evaluation.comparison_page import QUALITY, plot_name
from illava.evaluation.equal_time_page import heading
from illava.evaluation.metrics import LEAST_PLAIN
from illava.evaluation.rows import BLANK, PLAIN, TEXT_ONLY
from illava.evaluation.summary import escape, interval, number, table
from illava.evaluation.verdict import AXES

FOLDER, PAGE = Path("docs/zoo-r"), Path("docs/zoo-r-figures.md")
COMPARISON, CONTEST = "comparison.json", "contest.json"
WISHES = (2, 3, 4)
"""Speed-ups of the first token, measured, for which the best method is named."""
Figures = dict[str, Any]


def page(found: Figures, contest: Figures | None, plots: Sequence[str]) -> str:
    """The whole page."""
    lines = [
        "# zoo/R: figures",
        "",
        "Written by `python -m illava_lab.benchmarks.zoo_r page` from the files in [`docs/zoo-r`](zoo-r), "
        f"which `make {found['target']}` measures. The model, its data and its limits: [zoo-r.md](zoo-r.md).",
    ]
    for model, figures in found["models"].items():
        lines += [
            "",
            f"## {model}: the best of those at least as fast",
            "",
            *fastest(figures, found["reference"]),
        ]
        lines += ["", f"## {model}: what it can do", "", *plain_tasks(figures)]
        lines += ["", f"## {model}: every method", "", *methods(figures)]
        lines += ["", f"## {model}: every task, at 1/9 of the tokens", "", *by_task(figures)]
        for cost in COSTS:
            if plot_name(model, cost) in plots:
                lines += ["", f"![{model}: {QUALITY}, against {AXES[cost]}](zoo-r/{plot_name(model, cost)})"]
        lines += ["", *settings(figures)]
    if contest is not None:
        lines += ["", "## The larger merged against the smaller plain", "", *larger(contest)]
    return "\n".join(lines) + "\n"


def fastest(figures: Figures, reference: str) -> list[str]:
    """For each speed-up the row that retains most of those at least as fast, and the reference's best row.

    Once over all tasks and once over each group of them.
    """
    lines = []
    for group in (None, *figures["groups"]):
        title = "all tasks" if group is None else heading(group)
        for wish in WISHES:
            rows = [row for row in figures["rows"] if row["options"] is not None and _at_least(row, wish)]
            kept = {row["label"]: _retained(row, group) for row in rows}
            known = [row for row in rows if kept[row["label"]] is not None]
            if not known:
                lines.append([f"{title}, {wish}x", "none is that fast", ""])
                continue
            best = max(known, key=lambda row: kept[row["label"]])
            own = [row for row in known if row["method"] == reference]
            ours = max(own, key=lambda row: kept[row["label"]], default=None)
            cells = [_cell(row, kept) if row else "not that fast" for row in (best, ours)]
            lines.append([f"{title}, {wish}x", *cells])
    return table(
        ["at least", "best method: retained above blank, speed-up", f"best of {reference}"], lines, 3
    )


def _cell(row: Figures, kept: dict[str, float | None]) -> str:
    return f"{escape(row['label'])}: {kept[row['label']]:.1f} %, {1 / row['ttft']['value']:.2f}x"


def _at_least(row: Figures, wish: float) -> bool:
    share = row["ttft"]["value"]
    return share is not None and share <= 1 / wish


def _retained(row: Figures, group: str | None) -> float | None:
    """Accuracy above blank of a row, in % of plain's, over the tasks (of a group) that plain has learnt."""
    found = row["above_blank"] if group is None else row["groups"].get(group)
    return None if found is None else found["value"]


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


def methods(figures: Figures) -> list[str]:
    """Every row that ran, the fastest first."""
    rows = [row for row in figures["rows"] if row["options"] is not None and row["refused"] is None]
    rows.sort(key=lambda row: row["ttft"]["value"] or 1.0)
    cells = [
        [
            escape(row["label"]),
            interval(row["above_blank"]),
            "-" if row["ttft"]["value"] is None else f"{1 / row['ttft']['value']:.2f}",
            number(row["flops"], ".3f"),
            number(row["final_tokens"], ".0f"),
        ]
        for row in rows
    ]
    lines = table(["row", "above blank, %", "speed-up, first token", "FLOPs / plain", "tokens"], cells)
    refused = [
        f"{escape(row['label'])} ({escape(row['refused'])})" for row in figures["rows"] if row["refused"]
    ]
    return [*lines, "", f"Not run: {'; '.join(refused)}."] if refused else lines


def by_task(figures: Figures, budget: str = "1/9") -> list[str]:
    """Accuracy of every row at one budget by task, best first; then what the columns stand for."""
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


def settings(figures: Figures) -> list[str]:
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
    return [text]


def larger(contest: Figures) -> list[str]:
    """The contest as a table, whoever wins."""
    cells = [
        [
            label,
            interval(row["accuracy"]),
            interval(row["points"]),
            f"{row['milliseconds']:,.0f}",
            interval(row["times_faster"], ".2f"),
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


def read(folder: Path) -> tuple[Figures, Figures | None]:
    """The figures in a folder. Raises FileNotFoundError without a comparison."""
    contest = folder / CONTEST
    found = json.loads((folder / COMPARISON).read_text(encoding="utf-8"))
    return found, json.loads(contest.read_text(encoding="utf-8")) if contest.exists() else None
