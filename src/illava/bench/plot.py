"""The plot of ``illava bench``: measured speed-ups beside their FLOP bounds, and throughput."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..io.files import replacing
from ..io.plots import COLOURS, HINT, MARKERS

STAGES = {"encoder": "image encoder", "prefill": "prefill", "ttft": "time to first token"}


def draw(result: Mapping[str, Any], path: Path) -> str | None:
    """Plot what :func:`illava.bench.result.collect` returned, as a PNG.

    Left: speed-ups at the smallest batch as bars, with whiskers from the slowest to the fastest round and a
    black line at the FLOP bound. Right: answers per second by batch size, one line per variant.

    Returns None, or one line that says why there is no plot.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return HINT
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    stages, batches = figure.subplots(1, 2)
    _bars(stages, min(result["batches"], key=lambda part: part["batch"]))
    _lines(batches, result["batches"])
    for axes in (stages, batches):
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*batches.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.suptitle(result["title"], fontsize="medium")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    return None


def _bars(axes: Any, found: dict[str, Any]) -> None:
    width = 0.8 / len(found["variants"])
    for number, row in enumerate(found["variants"]):
        places = [stage + (number + 0.5) * width - 0.4 for stage in range(len(STAGES))]
        modules = [row["faster"][part] for part in STAGES]
        medians = [part["median"] for part in modules]
        whiskers = [
            [part["median"] - part["low"] for part in modules],
            [part["high"] - part["median"] for part in modules],
        ]
        axes.bar(places, medians, 0.9 * width, color=COLOURS[number % len(COLOURS)])
        axes.errorbar(places, medians, whiskers, fmt="none", ecolor="0.35", elinewidth=0.8, capsize=2)
        ends = [place - 0.45 * width for place in places], [place + 0.45 * width for place in places]
        line = axes.hlines([part["flops"] for part in modules], *ends, color="black", linewidth=2, zorder=3)
        if number == 0:
            line.set_label("FLOP bound")
    axes.axhline(1, color="0.6", linewidth=0.8)
    axes.set_xticks(range(len(STAGES)), list(STAGES.values()))
    axes.set_ylabel(f"speed-up over the plain model, batch size {found['batch']}")
    axes.legend(frameon=False, fontsize="small", loc="upper left")


def _lines(axes: Any, batches: list[dict[str, Any]]) -> None:
    sizes = [part["batch"] for part in batches]
    names = ["plain", *(row["label"] for row in batches[0]["variants"])]
    for number, name in enumerate(names):
        found = [part["plain"] if number == 0 else part["variants"][number - 1] for part in batches]
        speeds = [row["answers_per_second"] for row in found]
        medians = [speed["median"] for speed in speeds]
        whiskers = [
            [speed["median"] - speed["low"] for speed in speeds],
            [speed["high"] - speed["median"] for speed in speeds],
        ]
        axes.errorbar(
            sizes,
            medians,
            whiskers,
            label=name,
            color="black" if number == 0 else COLOURS[(number - 1) % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linewidth=1,
            elinewidth=0.8,
            capsize=2,
        )
    axes.set_xticks(sizes)
    axes.set_xlabel("batch size")
    axes.set_ylabel("answers per second")
