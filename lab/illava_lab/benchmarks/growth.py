"""How time and memory grow with what is shown: larger pictures, more pictures, longer videos.

A slice of Qwen2-VL-2B with random weights (speed does not depend on what a model has learnt, answers are
noise), plain and merged in turn, beside what the cost model says of the slice and of the whole model. Every
point is on disk as soon as it is measured; a second start goes on where the first one stopped.

    python -m illava_lab.benchmarks.growth --layers 2 --limit-tokens 6000 --rounds 2  # 20 minutes
    python -m illava_lab.benchmarks.growth --layers 4 --rounds 3  # all points: an hour and more
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import illava
from illava.bench import prompts, published, random_weights
from illava.bench.machine import machine
from illava.bench.memory import gigabytes, peak_bytes
from illava.bench.timing import Timing, interleave, measure, ratio
from illava.io.files import replacing
from illava.io.plots import COLOURS, MARKERS
from illava.models.layout import Workload, workload
from illava.models.located import LocatedModules
from illava.planning.predict import Predictor, skeleton
from illava_lab.benchmarks import common

SHAPE = "qwen2-vl-2b"
TEXT_TOKENS = 47
WARM = 56  # Pixels a side of the one picture that warms kernels and allocator up.
PLAIN = "plain"
METHODS = {"keep 1/3": illava.Illava.best(1 / 3), "keep 1/9": illava.Illava.best(1 / 9)}
PARTS = ("encoder", "prefill", "ttft")


@dataclass(frozen=True)
class Point:
    """What one prompt shows; ``side`` in pixels, of a video's frames too."""

    side: int
    pictures: int = 1
    frames: int = 0

    @property
    def name(self) -> str:
        """Its key in the JSON."""
        if self.frames:
            return f"{self.frames} frames of {self.side} px"
        return f"{self.pictures} x {self.side} px"


SERIES: dict[str, dict[int, Point]] = {
    "pixels a side of one picture": {side: Point(side) for side in (336, 672, 1008, 1344, 2016)},
    "pictures of 336 px": {count: Point(336, pictures=count) for count in (1, 2, 4, 8, 16)},
    "frames of a video of 224 px": {count: Point(224, frames=count) for count in (8, 16, 32, 64, 128)},
}
"""By what grows: where on that axis a point stands, and the point, of which two series may share one."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = common.parser(__doc__, rounds=2, layers=2)
    parser.add_argument("--limit-tokens", type=int, help="measure no point of more patches than this")
    options = common.parse(parser, arguments)
    settings = {"shape": SHAPE, "weights": "random", "dtype": "float32", "text_tokens": TEXT_TOKENS}
    settings |= {"layers": options.layers, "rounds": options.rounds, "machine": machine()}
    settings["methods"] = {name: method.to_dict() for name, method in METHODS.items()}
    path = options.output / "growth.json"
    try:
        done = read(path, settings)
    except ValueError as error:
        parser.error(str(error))
    result = run(settings, done, path, options.limit_tokens)
    write(result, path)
    draw(result, path.with_suffix(".png"))
    print(f"{path} written")


def read(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The points measured before; ValueError where they were measured with other settings.

    They are not measured anew without asking: that may have taken hours.
    """
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    # Through JSON, which knows no tuples.
    if found["settings"] != json.loads(json.dumps(settings)):
        raise ValueError(f"{path} was measured with other settings: move it away, or give another --output")
    return {name: point for name, point in found["points"].items() if point["measured"]}


def write(result: Mapping[str, Any], path: Path) -> None:
    """At once or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")


def run(
    settings: dict[str, Any], done: Mapping[str, Any], path: Path, limit: int | None = None
) -> dict[str, Any]:
    """Predict all points, and measure those that are not in ``done`` and have at most ``limit`` patches.

    Writes ``path`` whenever a point is there. Returns what is in it.
    """
    points = {point.name: point for series in SERIES.values() for point in series.values()}
    layers = {"slice": settings["layers"], "whole": None}
    models = {of: skeleton(published.config(SHAPE, number)) for of, number in layers.items()}
    found: dict[str, Any] = {}
    for name, point in points.items():
        work = workload(models["slice"], point.side, point.pictures, point.frames, TEXT_TOKENS)
        patches = models["slice"].group * sum(work.segments)
        found[name] = {**vars(point), "patches": patches, "visual_tokens": work.visual_tokens}
        found[name]["predicted"] = {of: predicted(modules, work) for of, modules in models.items()}
        found[name]["measured"] = done[name]["measured"] if name in done else None
    # Small ones first: should there be no time for all, most are there.
    wanted = sorted((name for name in found if name not in done), key=lambda name: found[name]["patches"])
    if limit is not None:
        for name in [name for name in wanted if found[name]["patches"] > limit]:
            wanted.remove(name)
            found[name]["note"] = f"not measured: more than {limit} patches"
            print(f"{name}: {found[name]['note']}", flush=True)
    result = {"settings": settings, "points": found}
    model = build(settings["layers"]) if wanted else None
    for number, name in enumerate(wanted, 1):
        found[name]["measured"] = measured(model, points[name], settings["rounds"])
        write(result, path)
        print(f"{number} of {len(wanted)}: {said(name, found[name])}", flush=True)
    return result


def build(layers: int) -> nn.Module:
    """The slice, warmed up."""
    model = random_weights.build(SHAPE, layers, torch.float32, torch.device("cpu"))
    measure(model, prompt(model.config, Point(WARM)), 1)
    return model


def prompt(config: Any, point: Point) -> dict[str, torch.Tensor]:
    """The point's pictures of noise, or its video, with a text of fixed length."""
    more = {"pictures": point.pictures, "frames": point.frames, "text_tokens": TEXT_TOKENS}
    return prompts.make(config, (point.side, point.side), **more)


def predicted(modules: LocatedModules, work: Workload) -> dict[str, Any]:
    """FLOPs and bytes (of float32) by the cost model, plain and by method; ratios are plain / merged."""
    predictor = Predictor(modules, work, element_size=4)
    plain = predictor.plain_cost
    costs = {PLAIN: plain, **{name: predictor.of(method).cost for name, method in METHODS.items()}}
    return {
        name: {
            "flops": cost.total,
            "encoder_flops": cost.encoder + cost.projector,
            "kv_bytes": cost.kv_bytes,
            "peak_bytes": cost.peak_bytes,
            "flops_ratio": plain.total / cost.total,
            "kv_ratio": plain.kv_bytes / cost.kv_bytes,
            "peak_ratio": plain.peak_bytes / cost.peak_bytes,
        }
        for name, cost in costs.items()
    }


def measured(model: nn.Module, point: Point, rounds: int) -> dict[str, Any]:
    """Seconds by round and stage and bytes at the peak, plain and by method.

    ``peak_bytes`` is what one ``generate`` of one token held above the weights, its inputs included, which
    the cost model counts as well. ``processor_seconds`` are those of whole calls: where seconds are more,
    others took the machine. ``load`` is its average over the last minute when the point was begun.
    """
    inputs = prompt(model.config, point)
    held = sum(value.numel() * value.element_size() for value in inputs.values())
    names, kv = (PLAIN, *METHODS), dict[str, int]()
    processor: dict[str, list[float]] = {name: [] for name in names}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None

    def once(name: str) -> Timing:
        began = time.process_time()
        with nullcontext() if name == PLAIN else illava.accelerate(model, METHODS[name]) as handle:
            timing = measure(model, inputs, 1)
            processor[name].append(time.process_time() - began)
            if handle is not None:
                kv[PLAIN], kv[name] = handle.report.plain_cost.kv_bytes, handle.report.cost.kv_bytes
        return timing

    timings = interleave({name: lambda name=name: once(name) for name in names}, rounds, warmup=0)
    peaks = {name: peak_bytes(lambda name=name: once(name), torch.device("cpu")) for name in names}
    rows = {}
    for name in names:
        peak, plain = peaks[name], peaks[PLAIN]
        known = peak is not None and plain is not None
        rows[name] = {
            "seconds": {part: [getattr(t, part) for t in timings[name]] for part in PARTS},
            "processor_seconds": processor[name][:rounds],
            "faster": ratio(timings[PLAIN], timings[name], "ttft").median,
            "peak_bytes": peak + held if known else None,
            "peak_ratio": (plain + held) / (peak + held) if known else None,
            "kv_bytes": kv[name],
        }
    return {"load": load, "rows": rows}


def said(name: str, point: Mapping[str, Any]) -> str:
    """One line for a point."""
    rows, modules = point["measured"]["rows"], []
    for label, row in rows.items():
        clock, own = (statistics.median(x) for x in (row["seconds"]["ttft"], row["processor_seconds"]))
        part = f"{label} {clock:.2f} s ({own:.2f} s of the processor)"
        part += f" {gigabytes(row['peak_bytes'])}" if row["peak_bytes"] is not None else ""
        if label != PLAIN:
            flops = point["predicted"]["slice"][label]["flops_ratio"]
            part += f" {row['faster']:.2f}x, FLOPs {flops:.2f}x"
        modules.append(part)
    return f"{name}, {point['patches']} patches: " + ", ".join(modules)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of all points if any was measured; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points, settings = result["points"], result["settings"]
    there = [point for point in points.values() if point["measured"]]
    if not there:
        return
    # One speed turns FLOPs into seconds: the median of what the plain slice did.
    rate = statistics.median(
        point["predicted"]["slice"][PLAIN]["flops"]
        / statistics.median(point["measured"]["rows"][PLAIN]["processor_seconds"])
        for point in there
    )
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(SERIES), sharey="row", sharex="col", squeeze=False)
    for column, (title, series) in enumerate(SERIES.items()):
        for axes, kind in zip(panels[:, column], ("seconds", "megabytes"), strict=True):
            _curves(axes, [(x, points[one.name]) for x, one in series.items()], kind, rate)
            axes.set(xscale="log", yscale="log")
            axes.grid(color="0.92")
            axes.spines[["top", "right"]].set_visible(False)
        panels[1, column].set_xlabel(title)
        panels[1, column].set_xticks(list(series), [str(x) for x in series])
        panels[1, column].minorticks_off()
    panels[0, 0].set_ylabel("processor seconds to the first token")
    panels[1, 0].set_ylabel("peak above the weights, MB")
    labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=3, frameon=False)
    on, loads = settings["machine"], [point["measured"]["load"] for point in there]
    busy = "" if None in loads else f", load of the machine {min(loads):.1f} to {max(loads):.1f}"
    layers, rounds = settings["layers"], settings["rounds"]
    figure.suptitle(
        f"{settings['shape']}, random weights, {settings['dtype']}; measured: a slice of {layers} encoder "
        f"blocks and {layers} LLM layers\n{on['cpu']}, {on['threads']} thread(s), torch {on['torch']}, "
        f"{rounds} rounds{busy}\npredicted seconds: FLOPs at {rate / 1e9:.0f} GFLOP/s, the median of the "
        "plain slice; lines of memory that coincide are equal",
        fontsize="medium",
    )
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _curves(axes: Any, here: Sequence[tuple[int, Any]], kind: str, rate: float) -> None:
    """Dots: measured; seconds are the processor's, as the clock's depend on who else was there: the median of
    the rounds, the lowest and the highest. Dashed: predicted of the slice, dotted: of the whole model."""
    xs = [x for x, _ in here]
    for name, colour, marker in zip((PLAIN, *METHODS), ("black", *COLOURS), MARKERS, strict=False):
        dots = []
        for x, row in ((x, point["measured"]["rows"][name]) for x, point in here if point["measured"]):
            peak = (row["peak_bytes"] or math.nan) / 1e6
            values = row["processor_seconds"] if kind == "seconds" else [peak]
            middle = statistics.median(values)
            dots.append((x, middle, middle - min(values), max(values) - middle))
        if dots:
            at, ys, *ends = zip(*dots, strict=True)
            axes.errorbar(at, ys, ends, color=colour, fmt=marker, capsize=2, label=f"{name}: measured, slice")
        for of, style in (("slice", "--"), ("whole", ":")):
            found = [point["predicted"][of][name] for _, point in here]
            ys = [one["flops"] / rate if kind == "seconds" else one["peak_bytes"] / 1e6 for one in found]
            axes.plot(xs, ys, style, color=colour, linewidth=1, label=f"{name}: predicted, {of}")


if __name__ == "__main__":
    main()
