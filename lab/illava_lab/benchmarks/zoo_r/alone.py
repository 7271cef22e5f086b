"""What the plain model can do: many questions of every task, with pictures, with grey ones and without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from illava.ask import load
from illava.bench.machine import machine
from illava.cli.console import progress
from illava.evaluation.compare import difference
from illava.evaluation.metrics import LEAST_PLAIN
from illava.evaluation.rows import BLANK, PLAIN, TEXT_ONLY, describe
from illava.evaluation.run import run
from illava.evaluation.store import Line, Store
from illava.evaluation.summary import summarise
from illava_lab.real import TRAINED, cache
from illava_lab.real.data import tasks as registry
from illava_lab.real.data.task_list import TASKS, OfStream

MODEL = "zoo/R-448"
BASELINES = (PLAIN.label, BLANK.label, TEXT_ONLY.label)
OPTIONS: dict[str, Any] = {"seed": 0, "split": "test", "batch_size": 16, "max_new_tokens": 8}


def measure(
    names: Sequence[str], each: int, folder: Path, device: str = "cpu", dtype: str = "bfloat16"
) -> dict[str, Any]:
    """Ask ``each`` test questions of every task; the figures, JSON-ready. Goes on where it was stopped.

    Raises ValueError for unknown tasks, and InputError if the model has not been made or the folder holds
    another run.
    """
    tasks = [registry.load(name) for name in names]
    model, processor = load(MODEL, device, dtype)
    with Store(folder, describe(MODEL, model, tasks, (TEXT_ONLY,), limit=each, **OPTIONS)) as store:
        with progress("plain", 3 * each * len(tasks)) as advance:
            size, most = OPTIONS["batch_size"], OPTIONS["max_new_tokens"]
            run(model, processor, tasks, (TEXT_ONLY,), store, each, size, most, advance)
        return {**figures(store.settings, store.lines), "machine": machine(), "trained": trained()}


def trained() -> str:
    """A short hash of the trained weights that ship, which figures must share to stand on one page."""
    return cache.sha256(TRAINED)[:16]


def timed_on(**options: Any) -> dict[str, Any]:
    """Where something was timed: machine, threads and trained weights, before ``options`` of how."""
    return {"machine": machine(), "threads": torch.get_num_threads(), "trained": trained(), **options}


def guess(name: str) -> float | None:
    """The accuracy, in %, of always giving the likeliest answer; None for a set's own questions."""
    spec = TASKS.get(name)
    return 100 * spec.guess if isinstance(spec, OfStream) else None


def figures(settings: dict[str, Any], lines: Sequence[Line]) -> dict[str, Any]:
    """Accuracy in % of every task, plain, with grey pictures and without, and how far plain is above grey.

    ``learnt`` is whether plain reaches 75 % and the interval of the difference is above zero.
    """
    above = difference(lines, [PLAIN.label], [BLANK.label])[1]
    tasks = {}
    for name, task in summarise(settings, lines)["tasks"].items():
        accuracy = {label: task["rows"][label]["accuracy"] for label in BASELINES}
        found = above[name]
        tasks[name] = {
            "questions": task["samples"],
            **accuracy,
            "guess": guess(name),
            "above": found.to_dict(),
            "learnt": accuracy[PLAIN.label]["value"] >= 100 * LEAST_PLAIN and (found.low or 0) > 0,
        }
    return {"tasks": tasks, "settings": settings}
