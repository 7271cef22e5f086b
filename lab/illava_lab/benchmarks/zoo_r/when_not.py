"""docs/when-not.md: where merging loses too much or saves too little, by what was measured on zoo/R."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from illava.evaluation.rows import BLANK, PLAIN, budget
from illava.evaluation.summary import escape, interval, number, table
from illava_lab.benchmarks import former

Figures = Mapping[str, Any]

MODEL = "zoo/R-448"
TASKS = {
    "real-large-words": "large printed words",
    "real-collage-place": "what is at a place",
    "real-collage-where": "where is it",
    "real-board-where": "where on a board",
    "real-clothing": "clothing",
    "real-photo-exists": "is it there",
}
"""Tasks that need characters, tasks that need places, and two that need neither."""
METHODS, BUDGETS = ("illava-best", "tome", "divprune", "downsample"), ("1/3", "1/9")
HEADS = {"picture": "picture, pixels", "text": "text before the question", "answer": "answer"}


def page(comparison: Figures, limits: Figures, contest: Figures) -> str:
    """The whole page. Raises ValueError if its parts were measured with other trained weights."""
    trained = {part["trained"] for part in (comparison, limits, contest)}
    if len(trained) > 1:
        raise ValueError(f"figures of different trained weights: {sorted(trained)}; measure all again")
    lines = [
        "# When not to use it",
        "",
        "Written by `python -m illava_lab.benchmarks.zoo_r when-not` from the files in "
        "[`docs/zoo-r`](zoo-r). All figures are those of [zoo/R](zoo-r.md), a small model of pretrained "
        "parts, on a CPU. Check [your own data](production.md#check-your-own-data).",
        "",
        "## Where a smaller picture is enough",
        "",
        *smaller(contest),
        "",
        "## Where characters or places matter",
        "",
        *losses(comparison["models"][MODEL]),
        "",
        "## Where there is little to save",
        "",
        *savings(limits),
        "",
        "## On a graphics card",
        "",
        "Nothing was measured there. For Qwen2-VL-2B on an H100 the planner "
        "[predicts](planning.md#on-an-accelerator) no gain at 672 x 672 pixels and 2x at 1344 x 1344.",
    ]
    return "\n".join(lines) + "\n"


def smaller(contest: Figures) -> list[str]:
    """What the smaller picture of the same model does, plain, against the larger one merged."""
    cells = [
        [escape(label), interval(row["accuracy"]), f"{row['milliseconds']:,.0f}"]
        for label, row in contest["contestants"].items()
    ]
    note = (
        f"{contest['each']} questions of each of {', '.join(contest['tasks'])}; one prompt at a time, in "
        f"turn, {contest['dtype']}, {contest['machine']['cpu']}. Merged: by the preset of 0.1. Try fewer "
        "pixels before fewer tokens; the two can be combined."
    )
    return [*table(["", "accuracy, %", "ms an answer"], cells), "", note]


def losses(figures: Figures) -> list[str]:
    """Accuracy of some methods by task."""
    rows = {row["label"]: row for row in figures["rows"]}
    labels = (PLAIN.label, BLANK.label, *(f"{name} {keep}" for keep in BUDGETS for name in METHODS))
    shown = [rows[label] for label in labels if label in rows and rows[label]["refused"] is None]
    cells = [
        [escape(row["label"]), *(number(row["tasks"].get(task), ".0f") for task in TASKS)] for row in shown
    ]
    widest = max(_reach(row, task) for row in shown for task in TASKS)
    note = (
        f"{figures['settings']['limit']} questions a task, {figures['settings']['dtype']}; intervals of 95 % "
        f"reach up to {widest:.0f} points to either side. [All methods and tasks](zoo-r-figures.md). The "
        "model hardly reads receipts, forms and signs even without merging, so that nothing can be said of "
        "them here. Reported, not measured here: SPIDER (ICLR 2026 submission 14993) finds for the published "
        "method on Qwen3-VL-8B, at about 55 % of the FLOPs, ChartQA at 64.7 instead of 83.2, DocVQA at 84.9 "
        "instead of 95.8, and hardly a loss on GQA."
    )
    note = " ".join(part for part in (former.note(shown), note) if part)
    return [*table(["accuracy, %", *TASKS.values()], cells), "", note]


def _reach(row: Figures, task: str) -> float:
    """How far the interval reaches from the accuracy, in points."""
    if task not in row["task_intervals"]:
        return 0.0
    low, high = row["task_intervals"][task]
    return float(max(high - row["tasks"][task], row["tasks"][task] - low))


def savings(limits: Figures) -> list[str]:
    """Speed-ups of whole answers by what varies."""
    lines: list[str] = []
    for what, cases in limits["cases"].items():
        lines += [
            *table(
                [HEADS[what], "prompt tokens", "visual tokens", "plain, s", "whole answer"], _cells(cases)
            ),
            "",
        ]
    lines.append(
        f"`Illava.best` of 0.1, to {budget(limits['keep'])}, one photograph, a short question and an answer "
        f"of one token where nothing else is said; {limits['dtype']}, medians (ranges) of {limits['rounds']} "
        f"rounds, plain and merged in turn, batch 1, threads: {limits['threads']}, "
        f"{limits['machine']['cpu']}. Merging shortens the encoder and the prefill. It shortens decoding "
        "only by a smaller KV cache, which matters where that is large: many images, large batches."
    )
    return lines


def _cells(cases: Figures) -> Sequence[Sequence[str]]:
    return [
        [
            label,
            f"{case['prompt_tokens']:,}",
            f"{case['visual_tokens']:,}",
            f"{case['plain_seconds']:.2f}",
            f"{case['faster']['median']:.2f}x ({case['faster']['low']:.2f}-{case['faster']['high']:.2f})",
        ]
        for label, case in cases.items()
    ]
