"""Charts of a report: tokens and FLOPs in every block and layer, merged beside plain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..io.pictures import InputError
from ..report.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MERGED, PLAIN = "#0072B2", "#B0B0B0"
"""Blue and grey, which differ in brightness too."""


@dataclass(frozen=True)
class Bars:
    """One number for each encoder block or LLM layer."""

    title: str
    unit: str
    plain: tuple[float, ...]
    merged: tuple[float, ...]


def bars(report: Report) -> list[Bars]:
    """Tokens and FLOPs of each encoder block, then of each LLM layer."""
    merged, plain = report.courses
    blocks = [
        tuple(float(sum(sum(call.sequences[block]) for call in course.encoder)) for block in range(depth))
        for course in (plain, merged)
        for depth in [len(course.encoder[0].sequences) if course.encoder else 0]
    ]
    layers = [
        tuple(float(course.prefill.rows * n) for n in course.prefill.tokens) for course in (plain, merged)
    ]
    costs = report.plain_cost, report.cost
    return [
        Bars("tokens in the image encoder", "tokens", *blocks),
        Bars("FLOPs of the image encoder", "GFLOPs", *(tuple(f / 1e9 for f in c.blocks) for c in costs)),
        Bars("tokens in the LLM, text included", "tokens", *layers),
        Bars("FLOPs of the LLM", "GFLOPs", *(tuple(f / 1e9 for f in c.layers) for c in costs)),
    ]


def draw_charts(report: Report) -> Figure:
    """The same as a matplotlib figure. Raises InputError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("charts need matplotlib: pip install 'illava[eval]'") from None
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, one in zip(figure.subplots(2, 2).flat, bars(report), strict=True):
        places = range(len(one.plain))
        axes.bar(places, one.plain, color=PLAIN, label="plain")
        axes.bar(places, one.merged, width=0.5, color=MERGED, label="merged")
        axes.set_title(one.title, fontsize="medium")
        axes.set_xlabel("block" if "encoder" in one.title else "layer")
        axes.set_ylabel(one.unit)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize="small")
    return figure
