"""Where the planner recommends a smaller picture instead of merging."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

import illava
from illava.bench.published import config as published
from illava.models.layout import workload
from illava.models.located import locate
from illava.ops.grids import coarse_shape
from illava.planning.accelerator import data_sheet_rates
from illava.planning.clock import Clock
from illava.planning.placements import effective, method_at, placements
from illava.planning.plan import plan_on
from illava.planning.predict import predict_on, skeleton
from illava.planning.sensitivity import PICTURE, SMALLER_PICTURE, Placement, divergence
from illava.planning.smaller_picture import SMALLEST
from tests.test_exact import single
from tests.test_verdict import rates_of_a_cpu
from tests.tiny import LLM_ONLY, config, tiny_model

QWEN = skeleton(published("qwen2-vl-2b"))
WORK = workload(QWEN, 672)
merging = partial(plan_on, smaller_picture=False)


def test_it_is_recommended_where_it_diverges_less():
    found = plan_on(QWEN, WORK, {"speedup": 4})
    assert isinstance(found.method, illava.Downsample)
    assert found.met
    assert found.prediction == predict_on(QWEN, found.method, WORK)
    assert found.prediction.speedup >= 4
    # The largest that does: one more row and column are too many.
    rows, _ = coarse_shape(24, 24, found.method.keep)
    larger = illava.Downsample(keep=((rows + 1) / 24) ** 2)
    assert predict_on(QWEN, larger, WORK).speedup < 4
    # By the share of tokens that are left, which is not the budget.
    assert found.chosen.divergence == divergence(rows**2 / 576, PICTURE)
    assert found.chosen.divergence < merging(QWEN, WORK, {"speedup": 4}).chosen.divergence
    assert "smaller picture" in found.reason
    assert f"smaller image: 576 -> {rows**2}" in str(found)


@pytest.mark.parametrize("name", ["speedup", "kv_bytes"])
def test_it_is_not_where_merging_diverges_less(name):
    plain = predict_on(QWEN, illava.Illava.best(1.0), WORK).plain_cost
    found = plan_on(QWEN, WORK, {name: 1.5 if name == "speedup" else plain.kv_bytes / 3})
    assert found == merging(QWEN, WORK, found.targets)
    assert isinstance(found.method, illava.Illava)
    assert found.chosen.divergence < divergence(1 / 2, PICTURE)


def test_a_budget_and_no_merging_at_all_are_left_alone():
    for targets in ({"keep": 1 / 9}, {"keep": 1 / 9, "speedup": 50}, {"speedup": 1}):
        assert plan_on(QWEN, WORK, targets) == merging(QWEN, WORK, targets)


def test_models_whose_pictures_have_a_size_get_none():
    fixed = skeleton(published("llava-onevision-0.5b"))
    for speedup in (4, 50):
        found = plan_on(fixed, workload(fixed, 384), {"speedup": speedup})
        assert isinstance(found.method, illava.Illava)


def test_of_unreachable_targets_it_may_be_the_nearest_down_to_what_was_measured():
    found = plan_on(QWEN, WORK, {"speedup": 50})
    assert not found.met
    assert found.reason.startswith("not possible; nearest is a smaller picture")
    assert found.chosen.speedup > merging(QWEN, WORK, {"speedup": 50}).chosen.speedup
    left = found.prediction.final_tokens / 576
    # 9 x 9 of 24 x 24; 8 x 8 would be fewer.
    assert left == (9 / 24) ** 2 >= SMALLEST > (8 / 24) ** 2
    # Whole rows of a small picture are fewer tokens than the budget says.
    small = workload(QWEN, 112)
    for speedup in (1.2, 2, 4):
        prediction = plan_on(QWEN, small, {"speedup": speedup}).prediction
        if prediction.steps and prediction.steps[0].stage == "pixels":
            assert prediction.final_tokens / prediction.visual_tokens >= SMALLEST


def test_it_is_recommended_where_merging_takes_longer_than_it_saves():
    plain = merging(QWEN, WORK, {"speedup": 1.5}, rates_of_a_cpu()).chosen.seconds[1].ttft
    slow = rates_of_a_cpu(operator=plain)
    refused = merging(QWEN, WORK, {"speedup": 1.5}, slow)
    assert refused.pays is False
    found = plan_on(QWEN, WORK, {"speedup": 1.5}, slow)
    assert isinstance(found.method, illava.Downsample)
    assert found.met
    assert found.pays
    assert found.chosen.speedup >= 1.5
    assert "merging does not reach the target" in found.reason
    # Launches that decide the plain pass decide it as well: no picture is given up for nothing.
    launches = replace(data_sheet_rates("h100", torch.bfloat16), launch_seconds=100.0)
    assert plan_on(QWEN, WORK, {"speedup": 1.5}, launches).method.keep == 1


def test_what_qualifies_seconds_is_said_of_it_too():
    found = plan_on(QWEN, workload(QWEN, 2688), {"speedup": 6}, data_sheet_rates("h100", torch.bfloat16))
    assert isinstance(found.method, illava.Downsample)
    assert "which no card has confirmed" in found.reason


def test_a_clock_recommends_none_that_the_answering_model_cannot_resize():
    rates = rates_of_a_cpu()
    here = skeleton(config("llava"))
    assert isinstance(Clock(QWEN, [WORK], rates).planned(4)(1 / 5), illava.Downsample)
    method = Clock(QWEN, [WORK], rates, planned_on=here).planned(4)(1 / 5)
    assert isinstance(method, illava.Illava)


def test_it_can_be_calibrated_saved_and_used(tmp_path):
    found = plan_on(QWEN, WORK, {"speedup": 4})
    best = merging(QWEN, WORK, {"speedup": 4})
    assert best.chosen in found.alternatives
    found.method.save_pretrained(tmp_path)
    assert illava.Method.from_pretrained(tmp_path) == found.method
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model, found.method) as handle, torch.no_grad():
        model(**single(model))
    assert handle.report.final_tokens < handle.report.visual_tokens


def test_nothing_is_extrapolated_by_a_slope():
    """Below what was measured, half of the tokens double the divergence, wherever they merge."""
    for placement in (
        Placement(None, 1 / 2, 1.0),
        Placement(8 / 9, 1 / 2, 1.0),
        Placement(1 / 3, 1 / 2, 1.0),
    ):
        assert divergence(1 / 16, placement) == pytest.approx(2 * divergence(1 / 8, placement))
    assert divergence(1 / 18, Placement(None, 1 / 2, 0.0)) == pytest.approx(
        2 * divergence(1 / 9, Placement(None, 1 / 2, 0.0))
    )
    assert divergence(SMALLEST / 2, PICTURE) == pytest.approx(2 * SMALLER_PICTURE[0][1])


def test_divergences_are_those_of_the_blocks_that_merge():
    """Qwen2.5-VL attends to whole pictures at every eighth block only."""
    windows = skeleton(published("qwen2.5-vl-7b"))
    found = plan_on(windows, workload(windows, 672), {"speedup": 2.5}, smaller_picture=False)
    (step, *_), keep = [s for s in found.prediction.steps if s.stage == "encoder"], found.method.keep
    if found.chosen.placement.encoder is not None:
        used = (step.layer + 1) / len(windows.blocks)
        layer = next((s.layer for s in found.prediction.steps if s.stage == "llm"), 0)
        at = Placement(used, layer / len(windows.layers), found.chosen.placement.encoder_share)
        assert found.chosen.divergence == pytest.approx(divergence(keep, at))


def test_a_model_with_one_stage_has_placements_in_it():
    for name, share in (("qwen3_5", 1.0), (LLM_ONLY[0], 0.0)):
        modules = locate(tiny_model(name))
        preset, *others = placements(modules, 1 / 3)
        assert {placement.encoder_share for placement in others} <= {share}
        assert effective(modules, preset).encoder_share == share
        for placement in (preset, *others):
            assert method_at(modules, 1 / 3, placement).plan(modules)
