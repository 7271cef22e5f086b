"""The planner: reaches its targets with the lowest predicted divergence, or returns the nearest schedule."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise, product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import illava
from illava.bench.published import config as published
from illava.models.dimensions import llm_dimensions
from illava.models.layout import workload
from illava.models.located import locate
from illava.planning.accelerator import data_sheet_rates
from illava.planning.experts import Experts, experts_of
from illava.planning.kernels import count_kernels
from illava.planning.machine_speed import Rates, at, measure_rates, rows_at
from illava.planning.placements import method_at, placements
from illava.planning.plan import plan, plan_on
from illava.planning.predict import Predictor, predict, predict_on, skeleton
from illava.planning.roofline import Roofline
from illava.planning.sensitivity import Placement, divergence
from illava.planning.timing import timing
from tests.test_exact import single
from tests.tiny import ALL, config, tiny_model

DOCS = Path(__file__).parents[1] / "docs"
QWEN = skeleton(published("qwen2-vl-2b"))
WORK = workload(QWEN, 672)
LINEAR = tuple((n, n * 1e-6) for n in (1, 10, 100, 1000, 10000))
SQUARE = tuple((n, n * n * 1e-9) for n in (1, 10, 100, 1000, 10000))


def made_up(head=0.0):
    return Rates(LINEAR, LINEAR, SQUARE, LINEAR, LINEAR, LINEAR, SQUARE, LINEAR, ((1, head),))


def test_a_budget_alone_is_the_preset():
    assert plan(QWEN, keep=1 / 9).method == illava.Illava.best(1 / 9)
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model, keep=1 / 9) as handle:
        assert handle.method == illava.Illava.best(1 / 9)
    with illava.accelerate(model) as handle:
        assert handle.method == illava.Illava.best(1 / 3)


@pytest.mark.parametrize("speedup", [1.5, 3, 4])
def test_a_speedup_is_reached_as_predicted(speedup):
    found = plan_on(QWEN, WORK, {"speedup": speedup}, smaller_picture=False)
    assert found.met
    # And hardly more than asked for: no token is given away.
    assert speedup <= found.prediction.speedup < 1.01 * speedup
    assert found.prediction == predict_on(QWEN, found.method, WORK)


def test_harder_targets_diverge_more():
    harm = [plan_on(QWEN, WORK, {"speedup": s}).chosen.divergence for s in (1.2, 2.2, 3, 4, 5)]
    # Of schedules that are as good within the rule's rounding the fastest is taken.
    assert all(a <= b * 1.2 for a, b in pairwise(harm))


def test_no_schedule_that_reaches_the_target_has_a_lower_predicted_divergence():
    target = {"speedup": 2.0}
    found = plan_on(QWEN, WORK, target)
    for keep in (1 / 2, 1 / 3, 1 / 6, 1 / 9):
        for share in (0.35, 0.5, 0.65):
            for block in (9, 12, 15):
                method = illava.Illava(
                    keep=keep, encoder_layers=(block,), llm_layers=(14,), encoder_share=share, reduce="drop"
                )
                placement = Placement((block + 1) / 32, 0.5, share)
                if predict_on(QWEN, method, WORK).speedup >= 2:
                    # Places in between are not among those that are tried.
                    assert found.chosen.divergence <= divergence(keep, placement) * 1.25


def test_keep_and_speedup_together():
    found = plan_on(QWEN, WORK, {"keep": 1 / 9, "speedup": 4})
    assert found.met
    assert found.prediction.final_tokens == 64
    assert found.prediction.speedup >= 4


def test_key_value_bytes():
    plain = predict(published("qwen2-vl-2b")).plain_cost.kv_bytes
    found = plan_on(QWEN, WORK, {"kv_bytes": plain / 3})
    assert found.met
    assert found.prediction.cost.kv_bytes <= plain / 3


def test_an_impossible_target_gives_the_nearest_schedule():
    found = plan_on(QWEN, WORK, {"speedup": 50}, smaller_picture=False)
    assert not found.met
    assert "not possible" in found.reason
    assert "(target 50x)" in found.reason
    # No schedule that is tried is faster.
    tried = [
        method_at(QWEN, found.method.keep, placement) for placement in placements(QWEN, found.method.keep)
    ]
    assert found.chosen.speedup == max(predict_on(QWEN, method, WORK).speedup for method in tried)
    # Text alone takes more than one byte.
    assert not plan_on(QWEN, WORK, {"kv_bytes": 1}).met


def test_a_speedup_of_one_needs_no_merging():
    found = plan_on(QWEN, WORK, {"speedup": 1})
    assert found.prediction.final_tokens == found.prediction.visual_tokens
    assert found.prediction.cost == found.prediction.plain_cost


@pytest.mark.parametrize("family", ALL)
def test_every_family_is_planned_and_does_what_was_planned(family):
    model = tiny_model(family)
    modules = locate(model)
    found = plan_on(modules, workload(modules, 48, prompt_tokens=10), {"speedup": 1.3})
    assert found.met
    if any(modules.recurrent):
        assert not any(step.stage == "llm" for step in found.prediction.steps)
        assert "no layer to merge before" in found.reason
    with illava.accelerate(model, found.method) as handle, torch.no_grad():
        model(**single(model))
    assert handle.report.cost.total < handle.report.plain_cost.total


def test_seconds_are_sums_over_the_course():
    rates = made_up(head=0.25)
    prediction = predict_on(QWEN, illava.Illava.best(1 / 9), WORK)
    for counts, cost in zip(prediction.token_counts, (prediction.cost, prediction.plain_cost), strict=True):
        (encoder,), llm = counts.encoder, counts.prefill
        linear = sum(sum(s) for s in encoder.sequences) + sum(encoder.mlp_tokens)
        linear += encoder.embedded + encoder.projected
        square = sum(n * n for s in encoder.sequences for n in s)
        took = rates.seconds(counts)
        assert took.encoder == pytest.approx(linear * 1e-6 + square * 1e-9)
        assert took.prefill == pytest.approx(sum(n * 1e-6 + n * n * 1e-9 for n in llm.tokens))
        assert took.ttft == pytest.approx(took.encoder + took.prefill + 0.25)
        assert took.decode == pytest.approx(sum(1e-6 + (n + 1) * 1e-6 for n in llm.cached) + 0.25)
        assert cost.kv_bytes == sum(llm.cached) * 2 * 2 * 128 * 4


def test_the_last_map_takes_a_row_of_each_prompt():
    without, with_head = made_up(), made_up(head=0.25)
    token_counts, _ = predict_on(QWEN, illava.Illava.best(1 / 9), workload(QWEN, 672, batch=3)).token_counts
    for part in ("ttft", "decode"):
        more = getattr(with_head.seconds(token_counts), part) - getattr(without.seconds(token_counts), part)
        assert more == pytest.approx(0.75)


def test_a_time_to_the_first_token():
    rates = made_up()
    plain = 1e3 * plan_on(QWEN, WORK, {"keep": 1 / 9}, rates).chosen.seconds[1].ttft
    found = plan_on(QWEN, WORK, {"ttft_ms": plain / 2.5}, rates)
    assert found.met
    assert 1e3 * found.chosen.seconds[0].ttft <= plain / 2.5
    assert "ms to the first token" in found.reason
    with pytest.raises(ValueError, match="rates"):
        plan(QWEN, ttft_ms=100)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 10**5), st.floats(1e-6, 10)),
        min_size=2,
        max_size=6,
        unique_by=lambda p: p[0],
    )
)
def test_a_curve_goes_through_its_points(points):
    curve = tuple(sorted(points))
    for n, seconds in curve:
        assert at(curve, n) == pytest.approx(seconds)
    assert at(curve, 0) == 0
    (a, low), (b, high) = curve[:2]
    middle = at(curve, round(math.sqrt(a * b)))
    assert min(low, high) * 0.99 <= middle <= max(low, high) * 1.01 or b - a < 10


@given(st.floats(0, 1), st.floats(1e-6, 1e-2), st.integers(0, 3))
def test_one_disturbed_measurement_does_not_move_the_line(constant, each, disturbed):
    lengths = (1, 8, 64, 256, 512, 1024, 2048)
    points = [[n, constant + each * n] for n in lengths]
    points[3 + disturbed][1] *= 3
    curve = tuple(map(tuple, points))
    for n in (8, 100, 700, 5000):
        assert rows_at(curve, n) == pytest.approx(constant + each * n, rel=1e-6)


def test_rates_of_a_machine_are_measured_and_kept():
    rates = measure_rates(config("qwen2_vl"), 64, 32, repeats=1)
    assert rates.llm_rows[-1][0] == 32
    assert all(seconds > 0 for _, seconds in rates.encoder_mlp)
    assert Rates.from_dict(rates.to_dict()) == rates


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "give at least one target"),
        ({"keep": 0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"speedup": 0.5}, "at least 1"),
        ({"speedup": float("nan")}, "speedup"),
        ({"kv_bytes": 0}, "kv_bytes"),
        ({"ttft_ms": -1}, "ttft_ms"),
    ],
)
def test_targets_out_of_range(target, message):
    with pytest.raises(ValueError, match=message):
        plan(QWEN, **target)


@pytest.mark.parametrize(
    ("number", "active", "tokens"), [(4, 1, 1), (4, 1, 4), (4, 2, 3), (5, 3, 2), (3, 3, 2)]
)
def test_experts_that_tokens_reach_are_an_average_over_all_routings(number, active, tokens):
    routings = list(product(combinations(range(number), active), repeat=tokens))
    expected = sum(len(set().union(*routing)) for routing in routings) / len(routings)
    assert Experts(number, active, 10).reached(tokens) == pytest.approx(expected)


@pytest.mark.parametrize("family", ["qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe"])
def test_a_long_prefill_reads_all_weights_of_a_mixture_of_experts(family):
    """As many as the tiny model's MLPs hold, the routers aside."""
    modules = locate(tiny_model(family))
    held = sum(
        weight.numel()
        for layer in modules.layers
        for name, weight in layer.mlp.named_parameters()
        if weight.dim() > 1 and not name.endswith("gate.weight")
    )
    llm, experts = llm_dimensions(modules.config), experts_of(modules.config)
    each = 3 * llm.hidden * (llm.intermediate + experts.more_width(10**6))
    assert len(modules.layers) * each == pytest.approx(held, rel=0.02)
    # The planner's times include them.
    predictor = Predictor(modules, workload(modules, 64))
    rates = replace(
        data_sheet_rates("h100"), launch_seconds=0, flops_per_second=math.inf, bytes_per_second=1e9
    )
    plain = timing(predictor, rates)(predictor.of(illava.Illava(keep=1.0)))[1]
    dense = Roofline(rates, predictor.shape, llm, count_kernels(modules.config), modules.group)
    more = plain.prefill - dense.seconds(predictor.plain).prefill
    weights = 3 * llm.hidden * experts.more_width(predictor.plain.prefill.tokens[0])
    assert more == pytest.approx(2 * len(modules.layers) * weights / 1e9)
