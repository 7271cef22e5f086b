"""What is trained on, in which order, for how many steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RANK, ALPHA = 16, 32.0
"""Of the adapters at every linear layer of the LLM: 4.9 million weights, 10 MB in bfloat16."""


@dataclass(frozen=True)
class Stage:
    """One leg of the training: ``steps`` batches of ``batch`` pictures of ``size`` x ``size`` pixels."""

    name: str
    size: int
    batch: int
    steps: int
    mixture: Mapping[str, float]
    """The share of rows from each stream of :data:`illava_lab.real.data.STREAMS`."""
    rate: float = 1e-3
    """AdamW's learning rate for the adapters."""
    turns: int = 6
    """The most questions about one picture."""


PHOTOS = {"photo": 1.0}
SEVERAL = {"photo": 0.3, "collage": 0.4, "cards": 0.1, "nlvr": 0.2}
ALL = {
    "photo": 0.16,
    "collage": 0.2,
    "board": 0.16,
    "cards": 0.1,
    "nlvr": 0.12,
    "words": 0.1,
    "receipts": 0.06,
    "forms": 0.05,
    "signs": 0.05,
}

RECIPES: dict[str, tuple[Stage, ...]] = {
    # One core for some hours, in several sittings.
    "cpu": (
        Stage("photos", 112, 6, 600, PHOTOS),
        Stage("several", 224, 4, 400, SEVERAL),
        Stage("all", 224, 4, 1200, ALL),
        Stage("large", 336, 2, 1000, ALL, rate=5e-4),
        Stage("largest", 448, 1, 2000, ALL, rate=3e-4),
    ),
    # One card for eight minutes.
    "card": (
        Stage("photos", 112, 32, 600, PHOTOS),
        Stage("several", 224, 32, 600, SEVERAL),
        Stage("all", 336, 24, 600, ALL),
        Stage("largest", 448, 16, 100_000, ALL, rate=5e-4),
    ),
}
"""By name. A run ends with its budget; what it has reached is kept, and the next run goes on there."""

PROJECTOR_SHARE = 0.1
"""The projector's learning rate, as a share of the adapters': ten times as much destroys within a hundred
steps what the closed form has found, and then names are not learnt in a thousand pictures."""
WARMUP = 30
"""Steps over which the rate rises, at the start of a stage and after a restart, whose optimizer is new."""
AVERAGING = 0.995
"""Decay of the running average of the weights, which is what is shipped: it stands in for a falling rate."""


def place(stages: tuple[Stage, ...], step: int) -> tuple[Stage, int] | None:
    """The stage that ``step`` belongs to and the number of its first step; None after the last."""
    first = 0
    for stage in stages:
        if step < first + stage.steps:
            return stage, first
        first += stage.steps
    return None
