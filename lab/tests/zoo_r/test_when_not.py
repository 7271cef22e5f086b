"""docs/when-not.md: that the page says what its files hold, and what is timed."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from illava_lab.benchmarks.zoo_r import limits, when_not
from illava_lab.benchmarks.zoo_r.__main__ import LIMITS, WHEN_NOT
from illava_lab.benchmarks.zoo_r.page import COMPARISON, CONTEST, FOLDER

from illava.ask import load


@pytest.fixture(scope="module")
def parts() -> list[dict[str, Any]]:
    files = (FOLDER / COMPARISON, LIMITS, FOLDER / CONTEST)
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def test_the_page_is_up_to_date(parts: list[dict[str, Any]]) -> None:
    assert WHEN_NOT.read_text(encoding="utf-8") == when_not.page(*parts)


def test_figures_of_other_weights_are_refused(parts: list[dict[str, Any]]) -> None:
    for number in range(3):
        mixed = copy.deepcopy(parts)
        mixed[number]["trained"] = "other"
        with pytest.raises(ValueError, match="different trained weights"):
            when_not.page(*mixed)


def test_what_was_measured_is_what_is_planned(parts: list[dict[str, Any]]) -> None:
    comparison, limited, _ = parts
    for what, cases in limits.cases().items():
        assert list(limited["cases"][what]) == [case.label for case in cases]
    figures = comparison["models"][when_not.MODEL]
    assert set(when_not.TASKS) <= set(figures["tasks"])
    assert {f"{name} {keep}" for name in when_not.METHODS for keep in when_not.BUDGETS} <= {
        row["label"] for row in figures["rows"] if row["refused"] is None
    }


def test_losses_are_shown_by_task(parts: list[dict[str, Any]]) -> None:
    figures = copy.deepcopy(parts[0]["models"][when_not.MODEL])
    (row,) = (row for row in figures["rows"] if row["label"] == "tome 1/9")
    row["tasks"]["real-large-words"], row["task_intervals"]["real-large-words"] = 12.0, [0.0, 96.0]
    lines = when_not.losses(figures)
    (shown,) = (line for line in lines if line.startswith("| tome 1/9 "))
    assert shown.split("|")[2].strip() == "12"
    assert "up to 84 points" in lines[-1]


def test_cases_are_timed_as_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small model: text makes the prompt longer, and the answer has the tokens that were asked for."""
    monkeypatch.setattr(limits, "EXAMPLE", ("demo/number.png", "What is it?"))
    model, processor = load("zoo/S", "cpu", "float32")
    asked = []
    real = limits.measure

    def measured(model: torch.nn.Module, inputs: Any, tokens: int, **options: Any) -> Any:
        asked.append((tokens, options["min_new_tokens"]))
        return real(model, inputs, tokens, **options)

    monkeypatch.setattr(limits, "measure", measured)
    short = limits.timed(model, processor, limits.Case("short", answer=3), rounds=2)
    long = limits.timed(model, processor, limits.Case("long", words=20), rounds=1)
    assert asked == [(3, 3)] * 6 + [(1, 1)] * 4
    assert long["prompt_tokens"] >= short["prompt_tokens"] + 20
    assert short["visual_tokens"] == long["visual_tokens"] > 0
    assert short["plain_seconds"] > 0
    assert short["faster"]["low"] > 0
