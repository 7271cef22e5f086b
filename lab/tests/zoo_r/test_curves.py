"""The curves behind the quality rule: their rows, their figures on made-up answers, and their page."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import pytest
from illava_lab.benchmarks.zoo_r import curves
from illava_lab.benchmarks.zoo_r.__main__ import CURVES, CURVES_PAGE
from illava_lab.real import BLOCKS
from transformers import Dinov2Config, LlamaConfig, LlavaConfig

from illava import Illava
from illava.evaluation.store import Line
from illava.planning import sensitivity
from illava.planning.predict import skeleton


def test_one_thing_varies_at_a_time() -> None:
    best = Illava.best(curves.KEEP).to_dict()
    changed = {
        what: {
            key for method in some.values() for key, value in method.to_dict().items() if value != best[key]
        }
        for what, some in curves.rows().items()
    }
    assert changed.pop(curves.BUDGET) == {"keep"}
    assert changed.pop(curves.BLOCK) == {"encoder_layers"}
    assert changed.pop(curves.LAYER) == {"llm_layers"}
    # Without a step in a stage it has no layers there.
    assert changed.pop(curves.SHARE) == {"encoder_share", "encoder_layers", "llm_layers"}
    assert not changed


def test_the_presets_own_places_are_those_of_the_model() -> None:
    assert curves.DEPTH == BLOCKS
    config = LlavaConfig(
        vision_config=Dinov2Config(num_hidden_layers=curves.DEPTH),
        text_config=LlamaConfig(num_hidden_layers=curves.LLM_DEPTH),
        vision_feature_layer=-1,
    )
    plan = Illava.best(curves.KEEP).plan(skeleton(config))
    assert tuple(plan.encoder) == curves.OWN_BLOCKS
    assert [*plan.llm] == [curves.OWN_LAYER]
    assert len(set(curves.labelled().values())) == len(curves.labelled())


def test_the_planners_rule_is_what_was_measured() -> None:
    found = json.loads(CURVES.read_text(encoding="utf-8"))["curves"]
    for name, points in curves.rule(found).items():
        held = getattr(sensitivity, name)
        assert [value for point in held for value in point] == pytest.approx([*chain(*points)]), name
    for keep, kl in sensitivity.BY_KEEP:
        assert sensitivity.divergence(keep) == pytest.approx(kl)
    # Nothing that the planner calls measured was significantly farther from plain than the preset.
    for value in curves.worse(found, curves.BLOCK):
        assert (int(value) + 1.5) / curves.DEPTH < sensitivity.EARLIEST_ENCODER
    for value in curves.worse(found, curves.LAYER):
        assert int(value) / curves.LLM_DEPTH < sensitivity.EARLIEST_LLM
    for value in curves.worse(found, curves.SHARE):
        assert float(value) > sensitivity.MAX_ENCODER_SHARE


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
    assert other["value"] == pytest.approx(1 / 2)
    assert other["low"] < other["value"] < other["high"]


def test_the_page_is_up_to_date() -> None:
    found = json.loads(CURVES.read_text(encoding="utf-8"))
    assert set(found["curves"]) == set(curves.labelled())
    assert CURVES_PAGE.read_text(encoding="utf-8") == curves.page(found)
