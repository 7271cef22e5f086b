"""The curves behind the quality rule: their rows, their figures on made-up answers, and their page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from illava_lab.benchmarks.zoo_r import curves
from illava_lab.benchmarks.zoo_r.__main__ import CURVES, CURVES_PAGE
from illava_lab.real import BLOCKS

from illava import Illava
from illava.evaluation.store import Line

DEPTH = 30
"""LLM layers of zoo/R."""


def test_one_thing_varies_at_a_time() -> None:
    best = Illava.best(curves.KEEP).to_dict()
    changed = {
        what: {
            key for method in some.values() for key, value in method.to_dict().items() if value != best[key]
        }
        for what, some in curves.rows().items()
    }
    assert changed.pop("budget") == {"keep"}
    assert changed.pop("encoder block of the step") == {"encoder_layers"}
    assert changed.pop("LLM layer of the step") == {"llm_layers"}
    # Without a step in a stage it has no layers there.
    shares = changed.pop("share of the reduction in the encoder")
    assert shares == {"encoder_share", "encoder_layers", "llm_layers"}
    assert [*changed] == [curves.EVERY]


def test_every_block_is_measured() -> None:
    assert tuple(range(BLOCKS)) == curves.BLOCKS
    assert set(curves.LAYERS) <= set(range(1, DEPTH))
    some = curves.rows()[curves.EVERY]
    assert [method.encoder_layers for method in some.values()] == [
        tuple(range(b, BLOCKS)) for b in range(BLOCKS)
    ]
    assert len(set(curves.labelled().values())) == len(curves.labelled())


def answers(task: str, kl: dict[str, list[float]]) -> list[Line]:
    rows = {"plain": [0.0] * 4, "blank": [9.0] * 4, **{label: [1.0] * 4 for label in curves.labelled()}, **kl}
    return [
        {"task": task, "row": label, "sample": n, "kl": value, "correct": True, "cluster": None}
        for label, values in rows.items()
        for n, value in enumerate(values)
    ]


def test_figures_are_means_over_tasks_paired_with_the_preset() -> None:
    double = "budget: 1/18"
    lines = answers("one", {curves.REFERENCE: [1, 2, 3, 6], double: [2, 4, 6, 12]})
    lines += answers("two", {curves.REFERENCE: [1, 1, 1, 1], double: [2, 2, 2, 2]})
    labels = dict.fromkeys(("plain", "blank", *curves.labelled()))
    settings = {"seed": 0, "tasks": {"one": {}, "two": {}}, "rows": labels}
    found = curves.figures(settings, lines, draws=200)
    assert found[curves.REFERENCE]["kl"]["value"] == pytest.approx((3 + 1) / 2)
    assert found[double]["kl"]["value"] == pytest.approx(4)
    # Twice the preset's in every resample: the interval has no width.
    assert [found[double]["share"][key] for key in ("low", "value", "high")] == pytest.approx([2, 2, 2])
    other: dict[str, Any] = found["budget: 1/2"]["share"]
    assert other["low"] < other["value"] == pytest.approx(1 / 2) < other["high"]


def test_the_page_is_up_to_date() -> None:
    found = json.loads(CURVES.read_text(encoding="utf-8"))
    assert set(found["curves"]) == set(curves.labelled())
    assert CURVES_PAGE.read_text(encoding="utf-8") == curves.page(found)
