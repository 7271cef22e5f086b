"""The rows of a comparison, timed once more in float32.

On CPUs that multiply bfloat16 matrices in hardware that dtype is three times as fast, which is why answers
are given in it. But float32 is what a CPU gets by default, and merging gains more there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from illava.ask import load
from illava.cli.console import progress
from illava.evaluation import speed
from illava.evaluation.comparison import Figures, share
from illava.evaluation.rows import PLAIN, Row
from illava.methods import method_from_dict
from illava_lab.real.data import tasks as registry

from .alone import OPTIONS, trained

BUDGET = "1/9"
"""Of the rows that are timed again: all of them would take half an hour."""


def rows_of(figures: Figures) -> list[Row]:
    """The rows of one model that ran and merge to BUDGET, from what ``illava compare`` wrote."""
    return [
        Row(row["label"], method_from_dict(row["options"]), row["keep"], name=row["method"])
        for row in figures["rows"]
        if row["options"] is not None and row["refused"] is None and row["budget"] == BUDGET
    ]


def measure(
    name: str, figures: Figures, folder: Path, count: int, device: str = "cpu", dtype: str = "float32"
) -> dict[str, Any]:
    """Time the rows of model ``name`` on the first ``count`` of the comparison's prompts.

    Goes on where it was stopped. Returns JSON-ready results: each row's time to the first token as a share of
    the plain model's, plain's seconds, and how it was measured.
    """
    model, processor = load(name, device, dtype)
    tasks = [registry.load(task) for task in figures["settings"]["tasks"]]
    rows = rows_of(figures)
    samples = speed.pick(tasks, figures["settings"]["limit"], count)
    timing = speed.known(folder, rows, samples)
    if timing is None:
        folder.mkdir(parents=True, exist_ok=True)
        with progress(f"{name}: {dtype}", (1 + len(samples)) * (1 + len(rows))) as advance:
            most = OPTIONS["max_new_tokens"]
            timing = speed.measure_rows(model, processor, samples, rows, most, advance, folder)
        speed.save(folder, timing)
    found = {label: share(row["faster"]["ttft"]) for label, row in timing["rows"].items()}
    return {
        "dtype": dtype,
        "trained": trained(),
        "ttft": {label: found[label] for label in found if label != PLAIN.label},
        "plain": timing["rows"][PLAIN.label]["seconds"]["ttft"],
        **{key: timing[key] for key in ("prompts", "threads", "machine")},
    }
