"""Bar charts of a report: tokens and FLOPs of every encoder block and LLM layer, plain and merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..io.pictures import InputError
from ..report.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MERGED, PLAIN = "#0072B2", "#B0B0B0"
"""Blue and grey, which also differ in brightness."""


@dataclass(frozen=True)
class Bars:
    """One chart: a value for each encoder block or LLM layer, plain and merged."""

    title: str
    unit: str
    plain: tuple[float, ...]
    merged: tuple[float, ...]


def bars(report: Report) -> list[Bars]:
    """The charts of tokens and FLOPs per encoder block, then per LLM layer."""
    merged, plain = report.token_counts
    blocks = [
        tuple(float(sum(sum(call.sequences[block]) for call in counts.encoder)) for block in range(depth))
        for counts in (plain, merged)
        for depth in [len(counts.encoder[0].sequences) if counts.encoder else 0]
    ]
    layers = [
        tuple(float(counts.prefill.rows * n) for n in counts.prefill.tokens) for counts in (plain, merged)
    ]
    costs = report.plain_cost, report.cost
    return [
        Bars("tokens in the image encoder", "tokens", *blocks),
        Bars("FLOPs of the image encoder", "GFLOPs", *(tuple(f / 1e9 for f in c.blocks) for c in costs)),
        Bars("tokens in the LLM, including text", "tokens", *layers),
        Bars("FLOPs of the LLM", "GFLOPs", *(tuple(f / 1e9 for f in c.layers) for c in costs)),
    ]


def draw_charts(report: Report) -> Figure:
    """Draw tokens and FLOPs of every encoder block and LLM layer as a matplotlib figure.

    Raises InputError if matplotlib is not installed.
    """
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
