"""The effect of each part of the best preset, one part at a time replaced by another, all else equal.

Measured on the validation split, on which the preset was chosen; docs/comparison.md is on the test split.

    python -m illava_lab.benchmarks.ablations measure L --limit 24 --threads 1    # and S; resumes where it was stopped
    python -m illava_lab.benchmarks.ablations page                                # writes docs/ablations.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from illava import Illava
from illava.ask import load
from illava.bench.machine import machine
from illava.evaluation.compare import difference
from illava.evaluation.metrics import LEAST_PLAIN
from illava.evaluation.rows import BLANK, PLAIN, Row, fingerprint
from illava.evaluation.store import write_json
from illava.evaluation.summary import summarise, table
from illava.io.files import replacing
from illava.io.plots import COLOURS, MARKERS
from illava_lab import tasks as registry
from illava_lab.benchmarks.evidence import artefacts
from illava_lab.benchmarks.evidence.measure import NEW_TOKENS, PLACE, ask_all

RUNS, FIGURES, PAGE = Path("runs/ablations"), Path("docs/ablations"), Path("docs/ablations.md")
TABLE, PLOT = "ablations.csv", "points.png"
SIZES = ("S", "L")
KEEP = 1 / 9
BEST = "illava-best"
CHOSEN = (
    "Selection and merging of the preset were chosen on these two models, by the KL of the first token's distribution "
    "from the plain model's; its layers, its shares and sizes in attention on zoo/R ([the choice](zoo-r-choice.md))."
)
QUESTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "Where": {
        "one step in the middle of both": {"where": "middle", "encoder_share": 0.5},
        "published pattern": {"published": True},
        "published pattern, diverse and folded": {
            "published": True,
            "select": "diverse",
            "reduce": "fold",
            "similarity": "cosine",
        },
        "same layers, highest, recycled": {"select": "highest", "reduce": "recycle", "similarity": "dot"},
    },
    "Which units stay": {
        "highest attention": {"select": "highest"},
        "highest rarity": {"select": "highest", "experimental": {"encoder_score": "rarity"}},
        "highest norm": {"select": "highest", "experimental": {"encoder_score": "norm"}},
        "diverse by rarity": {"experimental": {"encoder_score": "rarity"}},
        "diverse by norm": {"experimental": {"encoder_score": "norm"}},
        "attention from all query rows": {"score": "exact"},
        "random": {"select": "random"},
    },
    "What becomes of the others": {
        "dropped": {"reduce": "drop"},
        "recycled as published": {"reduce": "recycle", "similarity": "dot"},
        "recycled by cosine": {"reduce": "recycle"},
        "recycled into 30 % of the survivors": {"reduce": "recycle", "similarity": "dot", "recycle": 0.3},
        "rank-weighted mean": {"reduce": "weighted"},
        "folded by dot products": {"similarity": "dot"},
        "attention without sizes": {"proportional": None},
        "sizes in the encoder's attention alone": {"proportional": "encoder"},
        "sizes in the LLM's attention alone": {"proportional": "llm"},
    },
    "In the LLM": {
        "scores by all text": {"experimental": {"llm_score": "text"}},
        "compacted positions": {"experimental": {"positions": "compact"}},
        "before layer 2": {"llm_layers": (2,)},
        "before layer 4": {"llm_layers": (4,)},
    },
    "How much of it where": {
        "encoder share 0.5": {"encoder_share": 0.5},
        "encoder share 0.9": {"encoder_share": 0.9},
        "encoder alone": {"llm_layers": (), "encoder_share": None},
        "LLM alone": {"encoder_layers": (), "encoder_share": None},
        "one step at encoder block 1": {"encoder_layers": (1,)},
        "one step at encoder block 3": {"encoder_layers": (3,)},
    },
}
NOT_TRIED = (
    "Tokens that are not folded have no sizes, so these rows have none in attention either. Not in these ablations, "
    "though there are options: `complexity`, `sinks`. Not tried: softmax temperatures of recycling."
)


def variant(changes: dict[str, Any]) -> Illava:
    """The best preset with some of its fields changed, or the published pattern."""
    if changes.get("published"):
        return Illava(keep=KEEP, **{key: value for key, value in changes.items() if key != "published"})
    if changes.get("reduce", "fold") != "fold":
        changes = {"proportional": None, **changes}
    return dataclasses.replace(Illava.best(KEEP), **changes)


def rows() -> list[Row]:
    """The preset and every variant."""
    named = {label: changes for group in QUESTIONS.values() for label, changes in group.items()}
    return [Row(label, variant(changes), KEEP) for label, changes in {BEST: {}, **named}.items()]


def measure(size: str, limit: int) -> None:
    """Answer the validation split in all rows and write the figures."""
    name = f"zoo/{size}"
    model, processor = load(name, *PLACE)
    options = {"limit": limit, "seed": 0, "split": "val", "batch_size": 12, "max_new_tokens": NEW_TOKENS}
    settings, lines = ask_all(name, model, processor, rows(), RUNS / size, options, list(registry.names()))
    summary = summarise(settings, lines)
    figures = {
        label: {
            **{key: mean[key] for key in ("accuracy", "above_blank", "kl", "flops", "average_tokens")},
            "difference": difference(lines, [label], [BEST])[0].to_dict(),
        }
        for label, mean in summary["mean"].items()
    }
    write_json(
        FIGURES / f"{size}.json",
        {
            "model": name,
            "weights": fingerprint(model),
            "machine": machine(),
            **options,
            "tasks": [task for task, entry in summary["tasks"].items() if entry["in_mean"]],
            "rows": figures,
        },
    )


def read() -> dict[str, Any]:
    """The figures of both models."""
    return {size: json.loads((FIGURES / f"{size}.json").read_text()) for size in SIZES}


def page(found: dict[str, Any]) -> str:
    """The Markdown page: what is better than the preset, what is worse, and what makes no difference."""
    signs = {label: verdict(found, label) for label in changes()}
    kinds = ("better", "worse", "mixed", "same")
    labels = {kind: [label for label in signs if signs[label] == kind] for kind in kinds}
    for some in labels.values():
        some.sort(key=lambda label: -sum(_points(found, label)))
    ahead = [label for label in labels["same"] if min(_points(found, label)) > 0]
    same = [label for label in labels["same"] if label not in ahead]
    mixed = labels["mixed"]
    first = found["L"]
    place = first["machine"]
    preset = " and ".join(f"{found[size]['rows'][BEST]['above_blank']['value']:.1f} %" for size in SIZES)
    tasks = "; ".join(f"zoo/{size}: {', '.join(found[size]['tasks'])}" for size in SIZES)
    lines = [
        "# Ablations",
        "",
        f"- Significantly better than `{BEST}`: {_listed(found, labels['better'])}.",
        f"- Better on both models, not significantly: {_listed(found, ahead, flops=True)}.",
        f"- Significantly worse: {len(labels['worse'])} of {len(signs)} changes, see the table.",
        *([f"- Better on one, worse on the other: {_listed(found, mixed)}."] if mixed else []),
        f"- No significant difference otherwise: {'; '.join(same) or 'none'}.",
        "",
        "Written by `python -m illava_lab.benchmarks.ablations page` from [`docs/ablations`](ablations); every row: "
        f"[{TABLE}](ablations/{TABLE}). Measured on the **validation** split, on which the preset was chosen; for the "
        "test split see [comparison.md](comparison.md).",
        "",
        f"![Points of accuracy of every change against {BEST}, with intervals](ablations/{PLOT})",
        "",
        "## Significant changes",
        "",
        *table(
            [f"points against {BEST}", *(f"zoo/{size}" for size in SIZES), "KL", "FLOPs"],
            ([label, *_cells(found, label)] for label in labels["better"] + mixed + labels["worse"]),
        ),
        "",
        "## What was measured",
        "",
        f"`{BEST}` at 1/9 of the visual tokens ({preset} of the accuracy above "
        f"blank), with one part changed, all else equal. {first['limit']} questions a task, seed {first['seed']}, "
        f"float32, {place['cpu']}, torch {place['torch']}, transformers {place['transformers']}: `python -m "
        f"illava_lab.benchmarks.ablations measure L --limit {first['limit']} --threads {place['threads']}`. Accuracy: the mean "
        f"over tasks that plain gets right at least {100 * LEAST_PLAIN:.0f} % of the time ({tasks}), paired, with 95 % "
        "bootstrap intervals; one comparison in twenty would be significant by chance. *KL*: of the first token's "
        "distribution from plain, mean of both models. *FLOPs*: up to the first token / plain, on zoo/L.",
        "",
        CHOSEN,
        "",
        NOT_TRIED,
    ]
    return "\n".join(lines) + "\n"


def changes() -> list[str]:
    """The labels of all variants."""
    return [label for group in QUESTIONS.values() for label in group]


def verdict(found: dict[str, Any], label: str) -> str:
    """What is significant on any model: "better", "worse", "mixed" (each on another one), or "same"."""
    apart = [found[size]["rows"][label]["difference"] for size in SIZES]
    better, worse = any(d["low"] > 0 for d in apart), any(d["high"] < 0 for d in apart)
    return "mixed" if better and worse else "better" if better else "worse" if worse else "same"


def _points(found: dict[str, Any], label: str) -> list[float]:
    return [found[size]["rows"][label]["difference"]["value"] for size in SIZES]


def _listed(found: dict[str, Any], labels: list[str], flops: bool = False) -> str:
    """Labels with their points on each model, and their FLOPs if asked for."""
    told = []
    for label in labels:
        points = ", ".join(f"{value:+.1f}" for value in _points(found, label))
        cost = f"; FLOPs {found['L']['rows'][label]['flops']:.2f}" if flops else ""
        told.append(f"{label} ({points}{cost})")
    return ", ".join(told) or "none"


def _cells(found: dict[str, Any], label: str) -> list[str]:
    """Points on each model, bold where significant; KL, a mean; FLOPs."""
    cells = []
    for size in SIZES:
        apart = found[size]["rows"][label]["difference"]
        text = f"{apart['value']:+.1f} ({apart['low']:+.1f} to {apart['high']:+.1f})"
        cells.append(f"**{text}**" if apart["low"] > 0 or apart["high"] < 0 else text)
    rows = [found[size]["rows"][label] for size in SIZES]
    return [*cells, f"{sum(row['kl'] for row in rows) / len(rows):.3f}", f"{rows[-1]['flops']:.3f}"]


def to_csv(found: dict[str, Any]) -> str:
    """Every row of both models, plain, blank and the preset first."""
    groups = {
        "": {PLAIN.label, BLANK.label, BEST},
        **{title: set(group) for title, group in QUESTIONS.items()},
    }
    rows = []
    for size in SIZES:
        for label, row in found[size]["rows"].items():
            line = {"model": f"zoo/{size}", "part": next(t for t, some in groups.items() if label in some)}
            line |= {"row": label}
            for key, figure in row.items():
                cells = figure if isinstance(figure, dict) else {"value": figure}
                line |= {f"{key}_{end}".removesuffix("_value"): value for end, value in cells.items()}
            rows.append(line)
    return artefacts.to_csv(rows)


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw the points of every change with their intervals; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = changes()
    figure = Figure(figsize=(8, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, size in enumerate(SIZES):
        apart = [found[size]["rows"][label]["difference"] for label in labels]
        points = [d["value"] for d in apart]
        ends = [
            [value - d["low"] for value, d in zip(points, apart, strict=True)],
            [d["high"] - value for value, d in zip(points, apart, strict=True)],
        ]
        places = [place + 0.15 * (2 * number - 1) for place in range(len(labels))]
        look = {"color": COLOURS[number], "fmt": MARKERS[number], "markersize": 4, "elinewidth": 1}
        axes.errorbar(points, places, xerr=ends, label=f"zoo/{size}", **look)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel(f"points of accuracy against {BEST}, with 95 % intervals")
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("measure", "page"))
    parser.add_argument("size", nargs="?", choices=("S", "L"), default="L")
    parser.add_argument("--limit", type=int, default=24, help="samples a task; a later run may ask for more")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    FIGURES.mkdir(parents=True, exist_ok=True)
    if options.what == "measure":
        return measure(options.size, options.limit)
    found = read()
    draw(found, FIGURES / PLOT)
    for path, text in ((FIGURES / TABLE, to_csv(found)), (PAGE, page(found))):
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
