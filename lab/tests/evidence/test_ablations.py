"""The ablations: every variant is another method that fits the shipped models; the page says what is so."""

from __future__ import annotations

import json
import time

import pytest
import torch
from benchmarks import ablations
from illava_lab.benchmarks.bookkeeping import own_seconds
from illava_lab.benchmarks.comparison import bookkeeping
from torch import nn

import illava
from illava.ask import load
from illava.models.located import locate


@pytest.mark.parametrize("size", ["S", "L"])
def test_every_variant_is_another_plan_of_the_same_budget(size):
    modules = locate(load(f"zoo/{size}", "cpu", "float32")[0])
    rows = ablations.rows()
    plans = [row.method.plan(modules) for row in rows]
    assert len({repr(plan) for plan in plans}) == len(plans) == len({row.label for row in rows})
    for plan in plans:
        steps = [*plan.encoder.values(), *plan.llm.values()]
        assert steps[-1].of_all == ablations.KEEP
    assert rows[0].label == ablations.BEST
    assert rows[0].method == illava.Illava.best(ablations.KEEP)


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


@pytest.fixture
def figures(tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "FIGURES", tmp_path)
    labels = ["plain", "blank", *(row.label for row in ablations.rows())]
    for size in ("S", "L"):
        rows = {
            label: {
                "accuracy": estimate(90.0, 80.0, 95.0),
                "above_blank": estimate(95.5, 90.0, 99.0),
                "kl": 0.125,
                "flops": 0.5,
                "average_tokens": 32.0,
                "difference": estimate(0.0, -2.0, 2.0),
            }
            for label in labels
        }
        rows["dropped"]["difference"] = estimate(-4.0, -7.0, -1.0 if size == "L" else 1.0)
        rows["compacted positions"]["difference"] = estimate(3.0, 1.0, 5.0)
        rows["before layer 2"]["difference"] = (
            estimate(3.0, 1.0, 5.0) if size == "S" else estimate(-3.0, -5.0, -1.0)
        )
        (tmp_path / f"{size}.json").write_text(
            json.dumps(
                {
                    "limit": 24,
                    "seed": 0,
                    "tasks": ["attribute", "digits"],
                    "rows": rows,
                    "machine": {"cpu": "a CPU", "threads": 1, "torch": "2", "transformers": "5"},
                }
            )
        )


def test_the_page_says_what_helped_and_what_did_not(figures):
    page = ablations.page()
    better, worse, same = (line for line in page.splitlines() if line.startswith(("Significantly", "Not to")))
    assert better == "Significantly better than the preset: compacted positions (zoo/S, zoo/L)."
    assert worse == "Significantly worse: dropped (zoo/L)."
    assert "highest attention" in same
    # Better on one model and worse on the other is none of the three.
    assert not any("before layer 2" in line for line in (better, worse, same))
    assert "| dropped | 95.5 | -4.0 (-7.0 to +1.0) | 0.125 | 95.5 | **-4.0 (-7.0 to -1.0)** | 0.125 |" in page
    for group in ablations.QUESTIONS.values():
        for label in group:
            assert f"| {label} |" in page


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_nested_hooks_are_counted_once():
    model = nn.Sequential(nn.Identity(), nn.Identity())
    model[1].register_forward_pre_hook(lambda *_: busy(0.05))

    def outer(module, args):
        model[1](*args)

    hook = model[0].register_forward_pre_hook(outer)
    with own_seconds(model) as seconds:
        model[0](torch.ones(1))
        assert len(seconds) == 1
        assert 0.05 <= seconds[0] < 0.09
        model[1](torch.ones(1))
    assert len(seconds) == 2
    hook.remove()
    assert not model[0]._forward_pre_hooks


def test_the_table_of_own_cost_names_the_costly_first():
    found = {
        "shape": "a shape",
        "size": 448,
        "rounds": 1,
        "most": 0.03,
        "machine": {"cpu": "a CPU", "threads": 1},
        "rows": {
            "fastv 1/9": {"share_of_prefill": 0.001, "share_of_ttft": 0.0004, "times_faster": 1.1},
            "slow 1/9": {"share_of_prefill": 0.05, "share_of_ttft": 0.02, "times_faster": 1.5},
        },
        "refused": {"pool 1/9": "no grid"},
    }
    text = bookkeeping(found)
    assert "Above 3 %: slow 1/9." in text
    assert text.index("| slow 1/9 | 5.00 | 2.00 | 1.50 |") < text.index("| fastv 1/9 | 0.10 | 0.04 | 1.10 |")
    assert "| pool 1/9 | not run: no grid | - | - |" in text
