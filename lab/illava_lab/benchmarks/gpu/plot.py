"""The plot of the results: speed-up of the first token beside its FLOP bound, and answers per second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from illava.io.files import replacing
from illava.io.plots import COLOURS, HINT, MARKERS

Found = Mapping[str, Any]


def draw(found: Found, path: Path) -> str | None:
    """Draw a PNG. Returns None, or one line that says why there is no plot."""
    times = [*found["parts"].get("times", {}).get("rows", {}).values()]
    batches = [r for r in found["parts"].get("batches", {}).get("rows", {}).values() if "variants" in r]
    if not times and not batches:
        return "no plot: neither times nor batches were measured"
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return HINT
    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    if times:
        _first_token(left, times)
    if batches:
        _answers(right, batches)
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    settings = found["identity"]["settings"]
    title = f"{found['environment']['card']['name']}, {settings['dtype']}, random weights"
    figure.suptitle(title, fontsize="medium")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    return None


def _first_token(axes: Any, rows: Sequence[Found]) -> None:
    labels = [variant["label"] for variant in rows[0]["variants"]]
    width = 0.8 / len(labels)
    for number, label in enumerate(labels):
        places = [place + (number + 0.5) * width - 0.4 for place in range(len(rows))]
        gains = [row["variants"][number]["faster"]["ttft"] for row in rows]
        medians = [gain["median"] for gain in gains]
        whiskers = [
            [gain["median"] - gain["low"] for gain in gains],
            [gain["high"] - gain["median"] for gain in gains],
        ]
        axes.bar(places, medians, 0.9 * width, color=COLOURS[number], label=label)
        axes.errorbar(places, medians, whiskers, fmt="none", ecolor="0.35", elinewidth=0.8, capsize=2)
        ends = [place - 0.45 * width for place in places], [place + 0.45 * width for place in places]
        line = axes.hlines([gain["flops"] for gain in gains], *ends, color="black", linewidth=1.5, zorder=3)
        if number == 0:
            line.set_label("FLOP bound")
    axes.axhline(1, color="0.6", linewidth=0.8)
    axes.set_xticks(range(len(rows)), [f"{row['shape']}\n{row['size']} px" for row in rows])
    axes.tick_params(axis="x", labelsize="x-small", rotation=30)
    axes.set_ylabel("speed-up of the first token")
    axes.legend(frameon=False, fontsize="small", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))


def _answers(axes: Any, rows: Sequence[Found]) -> None:
    sizes = [row["batch"] for row in rows]
    lines = {"plain": [row["plain"] for row in rows]}
    for number, variant in enumerate(rows[0]["variants"]):
        lines[variant["label"]] = [row["variants"][number] for row in rows]
    for number, (label, found) in enumerate(lines.items()):
        speeds = [row["answers_per_second"]["median"] for row in found]
        # The colours of the other plot: plain is not in it.
        colour = "black" if number == 0 else COLOURS[number]
        axes.plot(sizes, speeds, label=label, color=colour, marker=MARKERS[number], linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("batch size")
    axes.set_ylabel("answers per second")
    axes.legend(frameon=False, fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
