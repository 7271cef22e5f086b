"""The curves behind the quality rule: their rows, their figures on made-up answers, and their page."""

from __future__ import annotations

import json

import pytest
from illava_lab.benchmarks.zoo_r import curves, curves_page
from illava_lab.benchmarks.zoo_r.__main__ import CURVES, CURVES_PAGE
from illava_lab.real import BLOCKS
from transformers import Dinov2Config, LlamaConfig, LlavaConfig

from illava import Illava
from illava.evaluation.store import Line
from illava.models.located import LocatedModules
from illava.planning import sensitivity
from illava.planning.placements import method_at
from illava.planning.predict import skeleton


def zoo_r() -> LocatedModules:
    config = LlavaConfig(
        vision_config=Dinov2Config(num_hidden_layers=curves.DEPTH),
        text_config=LlamaConfig(num_hidden_layers=curves.LLM_DEPTH),
        vision_feature_layer=-1,
    )
    return skeleton(config)


def test_each_row_merges_where_it_says() -> None:
    assert curves.DEPTH == BLOCKS
    model = zoo_r()
    rows = curves.rows()
    for label, method in rows[curves.ENCODER].items():
        place, name = label.split(": ")
        plan = method.plan(model)
        wanted = curves.THREE_BLOCKS if place == curves.THREE else (int(place.removeprefix("block ")),)
        assert (tuple(plan.encoder), plan.llm) == (wanted, {})
        assert method.keep == curves.LEFT[name]  # type: ignore[attr-defined]
    for label, method in rows[curves.LLM].items():
        plan = method.plan(model)
        assert (plan.encoder, [*plan.llm]) == ({}, [int(label.split(": ")[0])])
    for method in rows[curves.PICTURE].values():
        assert method.plan(model).pixels == method.keep  # type: ignore[attr-defined]
    labelled = curves.labelled()
    assert len(set(labelled.values())) == len(labelled)


def test_rows_of_both_stages_are_the_schedules_of_their_placements() -> None:
    model = zoo_r()
    for name, method in curves.rows()[curves.BOTH].items():
        keep, place, share = curves.JOINT[name]
        placement = curves.placement(place, share)
        assert method.plan(model) == method_at(model, keep, placement).plan(model), name
    best = Illava.best(1 / 9)
    assert best.plan(model) == curves.rows()[curves.BOTH]["three late, 3/4 of 1/9"].plan(model)


def test_the_planners_rule_is_what_was_measured() -> None:
    found = json.loads(CURVES.read_text(encoding="utf-8"))
    measured = found["curves"]
    for name, value in curves.rule(measured).items():
        assert json.dumps(getattr(sensitivity, name)) == json.dumps(value), name
    # Where one stage merges alone, the rule gives back what was measured, rounded.
    for block in curves.BLOCKS:
        for name, keep in curves.LEFT.items():
            kl = measured[f"{curves.ENCODER}: block {block}: {name}"]["value"]
            at = sensitivity.Placement((block + 1) / curves.DEPTH, 1 / 2, 1.0)
            assert sensitivity.divergence(keep, at) == pytest.approx(kl, rel=6e-3)
    for name, keep in curves.LEFT.items():
        kl = measured[f"{curves.ENCODER}: {curves.THREE}: {name}"]["value"]
        at = sensitivity.Placement(None, 1 / 2, 1.0)
        assert sensitivity.divergence(keep, at) == pytest.approx(kl, rel=6e-3)
    for layer in curves.LAYERS:
        kl = measured[f"{curves.LLM}: {layer}: 1/9"]["value"]
        at = sensitivity.Placement(1 / 2, layer / curves.LLM_DEPTH, 0.0)
        assert sensitivity.divergence(1 / 9, at) == pytest.approx(kl, rel=2e-2)
    for name, keep in curves.LEFT.items():
        kl = measured[f"{curves.PICTURE}: {name}"]["value"]
        share = curves.picture_share(keep)
        assert sensitivity.divergence(share, sensitivity.PICTURE) == pytest.approx(kl, rel=6e-3)


def answers(task: str, kl: dict[str, list[float]]) -> list[Line]:
    rows = {"plain": [0.0] * 4, "blank": [9.0] * 4, **{label: [1.0] * 4 for label in curves.labelled()}, **kl}
    return [
        {"task": task, "row": label, "sample": n, "kl": value, "correct": True, "cluster": None}
        for label, values in rows.items()
        for n, value in enumerate(values)
    ]


def test_figures_are_means_over_tasks_and_places_means_over_budgets() -> None:
    half, eighth = (f"{curves.ENCODER}: block 4: {name}" for name in ("1/2", "1/8"))
    lines = answers("one", {half: [1, 2, 3, 6], eighth: [4, 4, 4, 4]})
    lines += answers("two", {half: [1, 1, 1, 1], eighth: [2, 2, 2, 2]})
    labels = dict.fromkeys(("plain", "blank", *curves.labelled()))
    settings = {"seed": 0, "tasks": {"one": {}, "two": {}}, "rows": labels}
    found = curves.figures(settings, lines, draws=200)
    assert found["curves"][half]["value"] == pytest.approx((3 + 1) / 2)
    assert found["curves"][eighth]["value"] == pytest.approx((4 + 2) / 2)
    place = found["places"]["block 4"]
    assert place["kl"]["value"] == pytest.approx((2 + 1 + 3) / 3)
    # Three late steps have 1 everywhere.
    assert place["more"]["value"] == pytest.approx(1)
    assert place["more"]["low"] < 1 < place["more"]["high"]
    # All others are at the same distance in every resample.
    assert found["places"]["block 1"]["more"]["value"] == 0
    assert "more" not in found["places"][curves.THREE]


def test_the_page_is_up_to_date() -> None:
    found = json.loads(CURVES.read_text(encoding="utf-8"))
    assert set(found["curves"]) == set(curves.labelled())
    assert CURVES_PAGE.read_text(encoding="utf-8") == curves_page.page(found)
