"""Plot a training: losses and accuracy on held-out lessons against time."""

import json
from pathlib import Path

from illava.io.files import replacing

from ..tasks import names

LOSSES = {
    "answer": "answers",
    "class": "dense: class",
    "centre": "dense: centre",
    "place": "dense: place",
    "reference": "reference",
    "pointing": "pointing",
}
WINDOW = 5  # logged steps in a running mean


def draw(log: Path, path: Path, title: str) -> None:
    """Plot the log of :class:`~illava_lab.zoo.train.Trainer` as a PNG; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for key, name in LOSSES.items():
        points = [(line["seconds"] / 60, line[key]) for line in lines if key in line]
        if points:
            minutes, losses = zip(*points, strict=True)
            means = [
                sum(losses[max(0, i + 1 - WINDOW) : i + 1]) / min(WINDOW, i + 1) for i in range(len(losses))
            ]
            left.plot(minutes, means, linewidth=1, label=name)
    left.set_yscale("log")
    left.set_ylim(bottom=1e-3)
    left.set_ylabel(f"loss, mean of {WINDOW} logged steps")
    for task in names():
        points = [(line["seconds"] / 60, line["val"][task]) for line in lines if task in line.get("val", {})]
        if points:
            right.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1, label=task)
    right.set_ylim(0, 1)
    right.set_ylabel("accuracy on held-out lessons of the stage's size")
    starts = {line["stage"]: line for line in reversed(lines)}
    for axes in (left, right):
        for line in starts.values():
            axes.axvline(line["seconds"] / 60, color="0.85", linewidth=0.8, zorder=0)
        axes.set_xlabel("minutes")
        if axes.has_data():
            axes.legend(frameon=False, fontsize="x-small", ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{title}: {', '.join(starts[stage]['name'] for stage in sorted(starts))}", fontsize="small"
    )
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
