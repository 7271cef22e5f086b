"""How merging changes the first token's distribution on zoo/R: by budget, blocks, and share left to the LLM.

Validation questions, text and places included; one thing varies at a time from ``Illava.best`` at 1/9, but
for steps at every block. The figure is the KL divergence of the first token's distribution from the plain
model's, the mean over tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from illava import Illava
from illava.ask import load
from illava.bench.machine import machine
from illava.cli.console import progress
from illava.evaluation.metrics import DRAWS, Array, estimate, mean_over_tasks, resample
from illava.evaluation.rows import PLAIN, Row, describe
from illava.evaluation.run import run
from illava.evaluation.store import Line, Store
from illava.evaluation.summary import number, shared_lines, table
from illava_lab.real.data import tasks as registry

from .alone import MODEL, OPTIONS, trained

KEEP = 1 / 9
REFERENCE = "preset"
KEEPS = {"1/2": 1 / 2, "1/3": 1 / 3, "1/6": 1 / 6, "1/18": 1 / 18}
BLOCKS = tuple(range(9))
"""All encoder blocks, 0-based: a step at one of them, or at every block from there on."""
EVERY = "first block, with a step at every block from there on"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the reduction, on a logarithmic scale, in the encoder."""
LAYERS = (3, 5, 8, 10, 13, 15, 18, 20, 25)
"""LLM layers, 0-based, of 30: one step before each of them."""


def rows() -> dict[str, dict[str, Illava]]:
    """Methods by what varies, and by its value; the preset itself is REFERENCE of each."""
    best = Illava.best(KEEP)
    only_encoder: dict[str, Any] = {"encoder_share": 1.0, "llm_layers": ()}
    by_size: dict[str, Any] = {"experimental": {"proportional": "both", "encoder_score": "size"}}
    return {
        "budget": {name: Illava.best(keep) for name, keep in KEEPS.items()},
        "encoder block of the step": {f"{b}": replace(best, encoder_layers=(b,)) for b in BLOCKS},
        EVERY: {
            f"{b}": replace(best, encoder_layers=tuple(range(b, len(BLOCKS))), **only_encoder, **by_size)
            for b in BLOCKS
        },
        "share of the reduction in the encoder": {
            f"{share:g}": _shared(best, share) for share in SHARES if share != best.encoder_share
        },
        "LLM layer of the step": {f"{layer}": replace(best, llm_layers=(layer,)) for layer in LAYERS},
    }


def _shared(best: Illava, share: float) -> Illava:
    if share == 1:
        return replace(best, encoder_share=1.0, llm_layers=())
    return replace(best, encoder_share=share, **({"encoder_layers": ()} if share == 0 else {}))


def labelled() -> dict[str, Illava]:
    """All methods by the label of their row."""
    found = {f"{what}: {value}": method for what, some in rows().items() for value, method in some.items()}
    return {REFERENCE: Illava.best(KEEP), **found}


def measure(
    names: Sequence[str], each: int, folder: Path, device: str = "cpu", dtype: str = "bfloat16"
) -> dict[str, Any]:
    """Ask ``each`` validation questions of every task; the figures, JSON-ready. Goes on where it was stopped.

    Raises ValueError for unknown tasks, and InputError if the model has not been made or the folder holds
    another run.
    """
    options = {**OPTIONS, "split": "val", "max_new_tokens": 1}
    tasks = [registry.load(name, split="val") for name in names]
    model, processor = load(MODEL, device, dtype)
    asked = [Row(label, method, method.keep, name=label) for label, method in labelled().items()]
    with Store(folder, describe(MODEL, model, tasks, asked, limit=each, **options)) as store:
        with progress("curves", (2 + len(asked)) * each * len(tasks)) as advance:
            run(model, processor, tasks, asked, store, each, options["batch_size"], 1, advance)
        return {
            "machine": machine(),
            "trained": trained(),
            "dtype": dtype,
            "split": options["split"],
            "each": each,
            "tasks": list(names),
            "curves": figures(store.settings, store.lines),
        }


def figures(
    settings: Mapping[str, Any], lines: Sequence[Line], draws: int = DRAWS
) -> dict[str, dict[str, Any]]:
    """By row: the mean KL over tasks in nats, and as a share of the preset's, paired; with intervals."""
    statistics: dict[str, list[Array]] = {}
    for task in settings["tasks"]:
        shared = shared_lines([line for line in lines if line["task"] == task], settings["rows"])
        clusters = [line["cluster"] or f"#{line['sample']}" for line in shared[PLAIN.label]]
        drawn = resample(clusters, settings["seed"], task, draws)
        for label in labelled():
            values = [math.nan if line["kl"] is None else line["kl"] for line in shared[label]]
            statistics.setdefault(label, []).append(drawn.mean(values))
    means = {label: mean_over_tasks(some) for label, some in statistics.items()}
    return {
        label: {
            "kl": estimate(mean).to_dict(),
            "share": estimate(mean / means[REFERENCE]).to_dict(),
        }
        for label, mean in means.items()
    }


def page(found: Mapping[str, Any]) -> str:
    """The curves as tables."""
    curves = found["curves"]
    lines = [
        "# How merging changes the first token",
        "",
        "Written by `make zoo-r-curves`, which measures it. On [zoo/R](zoo-r.md) at 448 pixels, with "
        f"{len(BLOCKS)} encoder blocks and 30 LLM layers, one thing is changed in `Illava.best` at 1/9. Only "
        "the rows with a step at every block differ in more: all of the reduction is in the encoder, size "
        "and distance select, and attention knows the sizes. *KL*: divergence of the first token's "
        f"distribution from the plain model's, in nats, the mean over {len(found['tasks'])} tasks; *of the "
        "preset's*: divided by that of `Illava.best` as it is, paired. In brackets 95 % intervals.",
        "",
        f"`Illava.best` as it is: {_shown(curves[REFERENCE]['kl'], '.3f')}.",
    ]
    for what, some in rows().items():
        cells = [
            [value, *(_shown(curves[f"{what}: {value}"][key], form) for key, form in COLUMNS.items())]
            for value in some
        ]
        lines += ["", f"## By {what}", "", *table(["", "KL", "of the preset's"], cells)]
    place = found["machine"]
    lines += [
        "",
        f"{found['each']} questions of each of {', '.join(found['tasks'])}; split {found['split']}, "
        f"{found['dtype']}, weights {found['trained']}, {place['cpu']}, torch {place['torch']}, transformers "
        f"{place['transformers']}.",
    ]
    return "\n".join(lines) + "\n"


COLUMNS = {"kl": ".3f", "share": ".2f"}


def _shown(figure: Mapping[str, float | None], form: str) -> str:
    text = number(figure["value"], form)
    return text if figure["low"] is None else f"{text} ({figure['low']:{form}}-{figure['high']:{form}})"
