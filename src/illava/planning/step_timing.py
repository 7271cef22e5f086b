"""Times the steps of ``Illava.best`` on random units, with the code that merges in a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..methods import Illava
from ..methods.steps import EncoderAttention, Tokens, Units, reduced
from ..models.located import LocatedModules
from .layer_timing import Prepared, Timer

KEEP = 1 / 9
"""The budget whose steps are timed: each keeps a third of the units that enter it."""


def steps_of(modules: LocatedModules) -> tuple[Any, Any]:
    """The encoder step and the LLM step; None for the latter if the LLM has no layer to merge before."""
    plan = Illava.best(KEEP).plan(modules)
    return next(iter(plan.encoder.values())), next(iter(plan.llm.values()), None)


def merge_in_encoder(timer: Timer, step: Any, heads: int, head_dim: int, group: int) -> Prepared:
    """Scores, selection and merging of one segment's units of ``group`` tokens."""

    def prepare(n: int) -> Callable[[], Any]:
        query, key = (timer.numbers(1, heads, n * group, head_dim) for _ in range(2))
        attention = EncoderAttention(query, key, head_dim**-0.5, 0)
        vectors = timer.numbers(n, group * heads * head_dim)

        def run() -> Any:
            seen = step.observe_encoder(attention).reshape(n, group)
            return reduced(step, Units(vectors, seen, (n,), (n,)))

        return run

    return prepare


def merge_in_llm(timer: Timer, step: Any, hidden: int) -> Prepared:
    """Selection and merging of one run's tokens. Its scores, one query row, are not timed."""

    def prepare(n: int) -> Callable[[], Any]:
        # As in a run that the encoder step has left a third of.
        vectors, ones = timer.numbers(n, hidden), torch.ones(1, n, dtype=torch.int64)
        tokens = Tokens(vectors[None], ones - 1, ones.cumsum(1) - 1, ones[:, 0] * (n - 1))
        units = Units(vectors, timer.numbers(n).float().abs(), (n,), (3 * n,), tokens=tokens)
        return lambda: reduced(step, units)

    return prepare
