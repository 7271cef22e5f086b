"""The Pareto front of cost and quality, and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io.files import replacing
from ..io.plots import COLOURS, HINT, MARKERS


@dataclass(frozen=True)
class Point:
    """A row's cost and quality, with the ends of their intervals if there are any."""

    label: str
    name: str
    """The method, shared by its points at all budgets."""
    cost: float
    quality: float
    cost_ends: tuple[float | None, float | None] = (None, None)
    quality_ends: tuple[float | None, float | None] = (None, None)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other point dominates, by increasing cost.

    A point dominates another if it costs at most as much and has at least the quality, and differs in either.
    """

    def dominated(point: Point) -> bool:
        return any(
            other.cost <= point.cost
            and other.quality >= point.quality
            and (other.cost, other.quality) != (point.cost, point.quality)
            for other in points
        )

    return sorted((p for p in points if not dominated(p)), key=lambda p: (p.cost, p.quality, p.label))


def draw(
    points: Sequence[Point], path: Path, title: str, cost: str, quality: str, reference: str = ""
) -> str | None:
    """Plot the points, one line per method, and their Pareto front, as a PNG.

    Args:
        cost, quality: the labels of the axes.
        reference: the method that is drawn as black stars.

    Returns None, or one line that says why there is no plot.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return HINT
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    best = front(points)
    # Steps: between two points of the front, the best quality known is the cheaper one's.
    axes.plot(
        [p.cost for p in best],
        [p.quality for p in best],
        drawstyle="steps-post",
        color="0.25",
        linewidth=1.4,
        linestyle="--",
        label="Pareto front",
        zorder=1,
    )
    for number, name in enumerate(dict.fromkeys(point.name for point in points)):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        style |= {"markersize": 6, "linewidth": 0.6, "elinewidth": 0.5}
        if name == reference:
            style |= {"color": "black", "marker": "*", "markersize": 12, "linewidth": 1.4, "zorder": 3}
        _method(axes, sorted((p for p in points if p.name == name), key=lambda p: p.cost), style)
    for point in best:
        axes.annotate(
            point.label, (point.cost, point.quality), (4, 5), textcoords="offset points", fontsize="x-small"
        )
    axes.set_xlim(left=0)
    axes.set_xlabel(cost)
    axes.set_ylabel(quality)
    axes.set_title(title, fontsize="medium")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize="small"
    )
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    return None


def _method(axes: Any, points: Sequence[Point], style: dict[str, Any]) -> None:
    """Draw all budgets of one method."""
    axes.errorbar(
        [p.cost for p in points],
        [p.quality for p in points],
        yerr=_bars([(p.quality, *p.quality_ends) for p in points]),
        xerr=_bars([(p.cost, *p.cost_ends) for p in points]),
        markeredgecolor="white",
        markeredgewidth=0.5,
        label=points[0].name,
        **style,
    )


def _bars(figures: Sequence[tuple[float, float | None, float | None]]) -> list[list[float]]:
    """The lengths of the error bars below and above the values; 0 without interval."""
    below = [max(0.0, value - low) if low is not None else 0.0 for value, low, _ in figures]
    above = [max(0.0, high - value) if high is not None else 0.0 for value, _, high in figures]
    return [below, above]
