"""Plots of small photographs named right, against time and by depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from illava.evaluation.pareto import Point, draw
from illava.io.files import replacing
from illava.io.plots import COLOURS, MARKERS
from illava_lab.benchmarks.pretrained.figures import Figures
from illava_lab.benchmarks.pretrained.rows import DEEP, PLAIN
from illava_lab.benchmarks.pretrained.settings import DEEP_KEEPS

READ = "small photographs named right, %"
TIME = "encoder time / plain, measured"


def against_time(figures: Figures, path: Path) -> None:
    """Draw every method at every budget, and plain; needs matplotlib."""
    points = [_point(figures, PLAIN, PLAIN)]
    for label, row in figures.found["rows"].items():
        if row["block"] is None:
            points.append(_point(figures, label, row["name"]))
    draw(points, path, f"{figures.side} px", TIME, READ, reference="attention, fold, log")


def _point(figures: Figures, label: str, name: str) -> Point:
    accuracy = figures.accuracy(label)
    assert accuracy.value is not None
    return Point(
        label,
        name,
        figures.time(label)["median"],
        accuracy.value,
        quality_ends=(accuracy.low, accuracy.high),
    )


def by_depth(found: list[Figures], path: Path) -> None:
    """Draw single steps by their block, a panel for each size and budget; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(found), len(DEEP_KEEPS), squeeze=False, sharey="row")
    for row, figures in zip(panels, found, strict=True):
        for axes, keep in zip(row, DEEP_KEEPS, strict=True):
            _panel(axes, figures, keep)
    panels[0][0].legend(frameon=False, fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _panel(axes: Any, figures: Figures, keep: str) -> None:
    for number, name in enumerate((*DEEP, "tome")):
        rows = {
            row["block"]: label
            for label, row in figures.found["rows"].items()
            if (row["name"], row["keep"]) == (name, keep) and row["block"] is not None
        }
        if not rows:
            continue
        blocks = sorted(rows)
        read = [figures.accuracy(rows[block]) for block in blocks]
        look = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4, "linewidth": 1}
        axes.plot(blocks, [e.value for e in read], label=f"{name}, from" if name == "tome" else name, **look)
        lows, highs = [e.low for e in read], [e.high for e in read]
        if None not in lows + highs:
            axes.fill_between(blocks, lows, highs, color=COLOURS[number], alpha=0.1, linewidth=0)
    axes.axhline(figures.accuracy(PLAIN).value, color="0.5", linewidth=0.8, linestyle="--")
    axes.set_title(f"{figures.side} px, {keep}", fontsize="medium")
    axes.set_xlabel("block that merges (0-based)")
    axes.set_ylabel(READ, fontsize="small")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
