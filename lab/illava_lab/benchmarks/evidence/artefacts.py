"""The tables and plots beside docs/evidence.md, with the figures that are too many for the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from illava.evaluation import pareto
from illava.evaluation.comparison_page import QUALITY
from illava.evaluation.summary import ESTIMATES, MEANS
from illava.evaluation.verdict import AXES
from illava_lab.benchmarks.evidence.rows import BUDGETS, STAGES, allowed

SIZES = ("S", "L")
Results = dict[str, Any]


def tables(found: Results) -> dict[str, str]:
    """The CSV files by name: all rows by task, candidates for the layers, and differences between rows."""
    rows = [
        {"model": f"zoo/{size}", "task": task, "row": label, **flat(figures)}
        for size in SIZES
        for task, mean in {"mean": found[f"test-{size}"]["mean"], **by_task(found[f"test-{size}"])}.items()
        for label, figures in mean.items()
    ]
    layers = [
        {
            "model": f"zoo/{size}",
            "stage": stage,
            "candidate": label,
            **row,
            "allowed": allowed(stage, row),
            "chosen": label == offered["chosen"],
        }
        for size in SIZES
        for stage, offered in found[f"layers-{size}"]["stages"].items()
        for label, row in offered["figures"].items()
    ]
    differences = [
        {"model": f"zoo/{size}", "difference": label, "task": task, **figure}
        for size in SIZES
        for label, apart in found[f"test-{size}"]["differences"].items()
        for task, figure in {"mean": apart["mean"], **apart["tasks"]}.items()
    ]
    return {"rows.csv": to_csv(rows), "layers.csv": to_csv(layers), "differences.csv": to_csv(differences)}


def by_task(summary: Results) -> dict[str, Results]:
    """The rows of each task; tasks that are not in the means are marked."""
    return {
        name + ("" if task["in_mean"] else " (not in the mean)"): task["rows"]
        for name, task in summary["tasks"].items()
    }


def flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a row without nesting: value, low and high of estimates, then means."""
    out = {}
    for key in ESTIMATES:
        out |= {f"{key}_{end}".removesuffix("_value"): figures[key][end] for end in ("value", "low", "high")}
    return out | {key: figures[key] for key in MEANS}


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A CSV file of rows that have the same keys; empty where there is no figure."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def plot(size: str) -> str:
    """The file of a model's plot."""
    return f"stages-{size}.png"


def draw(found: Results, folder: Path) -> list[Path]:
    """Draw what each stage retains against its FLOPs; returns the files, none without matplotlib."""
    drawn = []
    for size in SIZES:
        points = [
            point(label, stage, found[f"test-{size}"]["mean"][label])
            for stage in (*STAGES, "published pattern")
            for label in (f"{stage} {budget}" for budget in BUDGETS)
        ]
        path = folder / plot(size)
        if pareto.draw(points, path, f"zoo/{size}", AXES["flops"], QUALITY, "both") is None:
            drawn.append(path)
    return drawn


def point(label: str, stage: str, figures: Results) -> pareto.Point:
    """A row by its FLOPs and what it retains."""
    kept = figures["above_blank"]
    return pareto.Point(
        label, stage, figures["flops"], kept["value"], quality_ends=(kept["low"], kept["high"])
    )
