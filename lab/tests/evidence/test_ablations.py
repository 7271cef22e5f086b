"""The ablations: every variant is another method that fits the shipped models; the page says what is so."""

from __future__ import annotations

import copy
import csv
import io
import time

import pytest
import torch
from illava_lab.benchmarks import ablations
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


@pytest.fixture(scope="module")
def found():
    return ablations.read()


def test_page_and_table_are_up_to_date(found):
    assert ablations.PAGE.read_text() == ablations.page(found)
    assert (ablations.FIGURES / ablations.TABLE).read_text() == ablations.to_csv(found)
    assert (ablations.FIGURES / ablations.PLOT).is_file()


def test_the_table_holds_every_row(found):
    rows = list(csv.DictReader(io.StringIO(ablations.to_csv(found))))
    assert len(rows) == 2 * (3 + len(ablations.changes()))
    for row in rows:
        figures = found[row["model"].removeprefix("zoo/")]["rows"][row["row"]]
        assert float(row["difference_low"]) == figures["difference"]["low"]
        assert float(row["kl"]) == figures["kl"]


def test_the_page_says_what_helped_and_what_did_not(found):
    changed = copy.deepcopy(found)
    for label, *points in (
        ("random", (3.0, 1.0, 5.0), (0.0, -1.0, 1.0)),
        ("dropped", (2.0, -1.0, 4.0), (-4.0, -7.0, -1.0)),
        ("before layer 2", (3.0, 1.0, 5.0), (-3.0, -5.0, -1.0)),
        ("encoder alone", (2.0, -1.0, 4.0), (1.0, -1.0, 3.0)),
    ):
        for size, ends in zip(ablations.SIZES, points, strict=True):
            figures = dict(zip(("value", "low", "high"), ends, strict=True))
            changed[size]["rows"][label]["difference"] = figures
    lines = ablations.page(changed).splitlines()
    assert "- Significantly better than `illava-best`: random (+3.0, +0.0)." in lines
    (ahead,) = (line for line in lines if line.startswith("- Better on both models, not significantly: "))
    assert "encoder alone (+2.0, +1.0; FLOPs 0.52)" in ahead
    assert "- Better on one, worse on the other: before layer 2 (+3.0, -3.0)." in lines
    first, *rest = (line for line in lines if line.startswith("| ") and " to " in line)
    assert first.startswith("| random | **+3.0 (+1.0 to +5.0)** | +0.0 (-1.0 to +1.0) |")
    assert any(
        line.startswith("| dropped | +2.0 (-1.0 to +4.0) | **-4.0 (-7.0 to -1.0)** |") for line in rest
    )
    assert not any(line.startswith("| encoder alone |") for line in rest)


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
    assert "Above 3 % of the plain prefill: slow 1/9." in text
    assert text.index("| slow 1/9 | 1.50 | 5.00 | 2.00 |") < text.index("| fastv 1/9 | 1.10 | 0.10 | 0.04 |")
    assert "| pool 1/9 | not run: no grid | - | - |" in text
