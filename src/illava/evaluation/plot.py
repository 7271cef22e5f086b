"""The plot of a summary: retained accuracy against visual tokens and against prefill time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..io.files import replacing
from ..io.plots import HINT
from .metrics import LEAST_PLAIN

NO_TASKS = f"no plot: at no task does the plain model reach an accuracy of {100 * LEAST_PLAIN:g} %"
KINDS = {"retained": "retained", "above_blank": "retained above blank"}


def draw(summary: dict[str, Any], path: Path) -> str | None:
    """Write the plot as a PNG. Returns None, or one line that says why there is no plot."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return HINT
    if not any(task["in_mean"] for task in summary["tasks"].values()):
        return NO_TASKS
    timing = summary["timing"]
    merged = [label for label, row in summary["settings"]["rows"].items() if row["options"] is not None]
    tokens = {label: summary["mean"][label]["final_tokens"] for label in ("plain", *merged)}
    panels = [("visual tokens left at the end", tokens)]
    if timing is not None:
        seconds = {label: 1e3 * timing["rows"][label]["seconds"]["prefill"] for label in timing["rows"]}
        panels.append(("prefill time of one prompt, ms", seconds))
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    FigureCanvasAgg(figure)
    methods = sorted({summary["settings"]["rows"][label]["method"] for label in merged})
    for axes, (title, places) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, method in enumerate(methods):
            rows = [label for label in merged if summary["settings"]["rows"][label]["method"] == method]
            for key, name in KINDS.items():
                _line(axes, summary["mean"], places, rows, key, f"{method}: {name}", f"C{number}")
        axes.axhline(100, color="0.6", linewidth=0.8, label="plain")
        if places.get("plain") is not None:
            axes.axvline(places["plain"], color="0.6", linewidth=0.8)
        axes.set_xlim(left=0)
        axes.set_xlabel(title)
        axes.set_ylabel("% of the plain model, mean over tasks")
        axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{summary['settings']['model']}", fontsize="medium")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
    return None


def _line(
    axes: Any, mean: dict[str, Any], places: dict[str, Any], rows: list[str], key: str, name: str, colour: str
) -> None:
    points = []
    for label in rows:
        figure, x = mean[label][key], places.get(label)
        if x is not None and figure["value"] is not None:
            y = figure["value"]
            low, high = (y if figure[end] is None else figure[end] for end in ("low", "high"))
            points.append((x, y, max(0.0, y - low), max(0.0, high - y)))
    if not points:
        return
    where, values, below, above = zip(*sorted(points), strict=True)
    whole = key == "retained"
    axes.errorbar(
        where,
        values,
        (below, above),
        fmt="o-" if whole else "o--",
        color=colour,
        markerfacecolor=colour if whole else "white",
        markersize=5,
        linewidth=1,
        capsize=2,
        label=name,
    )
