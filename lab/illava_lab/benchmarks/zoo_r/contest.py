"""The larger against the smaller: zoo/R at 448 pixels merged, and at 224 and 336 pixels plain, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from illava import Illava
from illava.ask import load
from illava.bench.machine import machine
from illava_lab.benchmarks.evidence import bigger
from illava_lab.real.candidates import candidates
from illava_lab.real.data import tasks as registry

from .alone import trained

SMALLER = "R-224 plain"
"""What the others are compared with."""
BUDGETS = {"1/3": 1 / 3, "1/9": 1 / 9}
FAST = "candidate-encoder"
"""Which leaves the whole LLM with few tokens, where the preset's last step is in the middle of it."""


def entered() -> dict[str, bigger.Contestant]:
    """Contestants by label."""
    plain: dict[str, bigger.Contestant] = {f"R-{size} plain": (f"R-{size}", None) for size in (224, 336, 448)}
    merged = {f"R-448 merged to {name}": ("R-448", Illava.best(keep)) for name, keep in BUDGETS.items()}
    return {**plain, **merged, f"R-448 {FAST} 1/9": ("R-448", candidates(1 / 9)[FAST])}


def run(tasks: Sequence[str], each: int, device: str = "cpu", dtype: str = "bfloat16") -> dict[str, Any]:
    """Ask ``each`` test questions of every task; the figures, JSON-ready.

    Raises ValueError for unknown tasks and if a model has not been made.
    """
    models = {name: load(f"zoo/{name}", device, dtype) for name in ("R-224", "R-336", "R-448")}
    loaded = [registry.load(name) for name in tasks]
    samples = [task[number] for number in range(each) for task in loaded]
    lines = bigger.compete(models, entered(), samples)
    return {
        "machine": machine(),
        "trained": trained(),
        "each": each,
        "tasks": list(tasks),
        "dtype": dtype,
        "contestants": bigger.results(lines, tasks, SMALLER),
    }
