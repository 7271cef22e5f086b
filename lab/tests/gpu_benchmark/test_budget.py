"""What fits in the time: predictions, what is learned from rows, and what two calls measure."""

from __future__ import annotations

from pathlib import Path

import pytest
from illava_lab.benchmarks.gpu import command
from illava_lab.benchmarks.gpu.budget import Budget
from illava_lab.benchmarks.gpu.context import Context
from illava_lab.benchmarks.gpu.parts import PARTS
from illava_lab.benchmarks.gpu.settings import CARD

from .test_command import Made, made

__all__ = ["made"]


def test_a_slow_machine_is_learned_from_the_row_before() -> None:
    budget = Budget(100, now=lambda: 0.0)
    assert budget.fits("times", "672", 60)
    budget.learn("times", "672", 10, 20)
    assert not budget.fits("times", "672", 60)
    assert budget.fits("times", "672", 50)
    assert budget.fits("times", "1344", 60)
    assert budget.fits("batches", "672", 60)
    budget.learn("times", "672", 10, 1000)
    assert budget.expected("times", "672", 10) == 40


@pytest.mark.parametrize(
    ("part", "slow", "other"),
    [
        ("equality", "operations, 576 units, random, fp32", "logits, tiny llava"),
        ("times", "qwen2-vl-2b, 672", "qwen2-vl-2b, 1344"),
        ("batches", "batch 1", "batch 8"),
        ("batches", "batch 8", "largest batch, plain"),
        ("decoding", "static cache, CUDA graphs", "dynamic cache"),
        ("profile", "ceilings", "plain"),
    ],
)
def test_rows_of_another_kind_keep_their_predictions(part: str, slow: str, other: str) -> None:
    budget = Budget(100, now=lambda: 0.0)
    rows = {row.key: row for row in PARTS[part].rows(Context(CARD, budget))}
    budget.learn(part, rows[slow].kind, 1, 4)
    assert budget.expected(part, rows[slow].kind, 10) == 40
    assert budget.expected(part, rows[other].kind, 10) == 10


def test_in_eight_minutes_every_part_gets_its_first_rows() -> None:
    """By the predictions: what one part leaves for the later ones suffices for what it does itself."""
    time = 0.0
    budget = Budget(480, now=lambda: time)
    for number, part in enumerate(PARTS.values()):
        reserve = sum(other.reserve for other in [*PARTS.values()][number + 1 :])
        ran = []
        for row in part.rows(Context(CARD, budget)):
            if budget.fits(part.name, row.kind, row.seconds, reserve):
                time += row.seconds
                ran.append(row.key)
        assert ran, part.name
        if part.name == "decoding":
            assert "static cache, CUDA graphs" in ran


def test_two_calls_of_eight_minutes_measure_all(made: Made, tmp_path: Path) -> None:
    """By the predictions, as the help says; the first call says that rows are left."""
    rows = {name: [*part.rows(Context(CARD, Budget(480)))] for name, part in PARTS.items()}
    parts = [
        # The report knows no part of this name.
        made.part(f"made up {name}", *((row.key, row.seconds) for row in rows[name]), reserve=part.reserve)
        for name, part in PARTS.items()
    ]
    assert made.call(tmp_path, 480, *parts) == command.UNFINISHED == 3
    assert made.call(tmp_path, 480, *parts) == command.DONE
