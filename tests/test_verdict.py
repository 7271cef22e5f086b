"""The planner's verdict: whether merging pays, and what it recommends where it does not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import inf

import pytest

import illava
from illava.bench.published import config as published
from illava.models.layout import workload
from illava.ops.selection import MAX_PAIRWISE_UNITS
from illava.planning.accelerator import AcceleratorRates, data_sheet_rates
from illava.planning.machine_speed import Rates
from illava.planning.merging_cost import KERNELS_BESIDE_ROUNDS, KERNELS_PER_PREFILL
from illava.planning.plan import HARDLY, plan
from illava.planning.plan import plan_on as plan_or_smaller_picture
from illava.planning.predict import Predictor, skeleton
from illava.planning.recommendation import MIN_GAIN
from illava.planning.timing import timing
from tests.tiny import config

QWEN = skeleton(published("qwen2-vl-2b"))
SMALL, LARGE = workload(QWEN, 224), workload(QWEN, 672)
H100 = data_sheet_rates("h100")
COMPUTE = AcceleratorRates("compute", "bfloat16", 0.0, 0.0, inf, 1e9, inf, False)
"""Only the products of the model take time, and so much that rounds of a selection do not count."""
LINEAR = tuple((n, n * 1e-6) for n in (1, 10, 100, 1000, 10000))
SQUARE = tuple((n, n * n * 1e-9) for n in (1, 10, 100, 1000, 10000))
# Merging alone; a smaller picture has a file of its own.
plan_on = partial(plan_or_smaller_picture, smaller_picture=False)
NOTHING = tuple((n, 1e-12) for n in (1, 10, 100, 1000, 10000))


def rates_of_a_cpu(encoder_step=(), llm_step=(), operator=0.0):
    parts = (LINEAR, LINEAR, SQUARE, LINEAR, LINEAR, LINEAR, SQUARE, LINEAR, ((1, 0.0),))
    return Rates(*parts, encoder_step, llm_step, operator)


def keeps_all(found):
    assert found.pays is False
    assert found.method.keep == 1
    assert not found.prediction.steps
    assert found.chosen.speedup == 1
    assert found.refused.prediction.steps
    assert found.refused.speedup <= MIN_GAIN
    assert found.reason.startswith("merging does not pay here; keep all visual tokens")
    assert "\n" not in found.reason
    return True


@pytest.mark.parametrize(
    "targets", [{"speedup": 1.5}, {"ttft_ms": 1}, {"keep": 1 / 9}, {"keep": 1 / 9, "speedup": 2}]
)
def test_a_small_picture_on_a_fast_card_is_not_merged(targets):
    found = plan_on(QWEN, SMALL, targets, H100)
    assert keeps_all(found)
    assert not found.met
    assert "which no card has confirmed" in found.reason
    assert ("; the target cannot be reached" in found.reason) == bool({"speedup", "ttft_ms"} & targets.keys())
    merged, plain = found.refused.seconds
    # Launches decide the plain pass; merging adds its own.
    assert plain.ttft == pytest.approx(plain.launches)
    assert merged.ttft >= merged.launches > plain.launches


def test_no_schedule_is_promised_to_be_faster_than_its_launches():
    for work in (SMALL, LARGE, workload(QWEN, 1344)):
        for target in (1.1, 1.5, 3, 50):
            found = plan_on(QWEN, work, {"speedup": target}, H100)
            merged, plain = (found.refused or found.chosen).seconds
            assert merged.ttft >= merged.launches > 0
            assert found.chosen.speedup <= plain.ttft / plain.launches


def test_where_products_decide_the_speedup_is_that_of_flops():
    for target in (1.5, 3):
        found = plan_on(QWEN, LARGE, {"speedup": target}, COMPUTE)
        assert found.pays
        assert found.met
        assert found.chosen.speedup == pytest.approx(found.prediction.speedup, rel=1e-3)
        assert found.method == plan_on(QWEN, LARGE, {"speedup": target}).method
    # The same rates with slow launches.
    assert keeps_all(plan_on(QWEN, LARGE, {"speedup": 1.5}, replace(COMPUTE, launch_seconds=100.0)))


def test_an_unreachable_target_costs_no_tokens_that_bring_nothing():
    """Once launches decide, the smallest budget is as slow as a larger one."""
    work = workload(QWEN, 1344)
    found = plan_on(QWEN, work, {"speedup": 50}, H100)
    assert not found.met
    assert found.pays
    assert "not possible" in found.reason
    assert "launches alone take" in found.reason
    smallest = plan_on(QWEN, work, {"keep": 0.028, "speedup": 50}, H100)
    assert found.method.keep > 0.03
    assert found.chosen.speedup * HARDLY * 1.0001 >= smallest.chosen.speedup
    assert found.chosen.divergence < smallest.chosen.divergence


def test_a_target_for_the_cache_is_reached_in_any_case():
    plain = plan_on(QWEN, SMALL, {"keep": 1}, H100).prediction.cost.kv_bytes
    found = plan_on(QWEN, SMALL, {"kv_bytes": plain * 0.7}, H100)
    assert found.met
    assert found.prediction.cost.kv_bytes <= plain * 0.7
    assert found.prediction.steps
    assert found.pays is False
    assert found.refused is None
    assert "merging does not pay here: the first token takes" in found.reason


def test_steps_and_hooks_count_on_a_cpu_as_well():
    target = {"speedup": 1.5}
    free = plan_on(QWEN, LARGE, target, rates_of_a_cpu())
    assert free.pays
    # The hooks of a merged prefill alone take as long as the plain pass.
    plain = free.chosen.seconds[1].ttft
    assert keeps_all(plan_on(QWEN, LARGE, target, rates_of_a_cpu(operator=plain / KERNELS_PER_PREFILL)))
    # What steps take is a part of the stage that they are in, by the units that enter them.
    found = plan_on(QWEN, LARGE, {"keep": 1 / 9}, rates_of_a_cpu(LINEAR, NOTHING, 1e-9))
    (*encoder, llm), (merged, _) = found.prediction.steps, found.chosen.seconds
    entered = sum(step.before for step in encoder)
    without = plan_on(QWEN, LARGE, {"keep": 1 / 9}, rates_of_a_cpu()).chosen.seconds[0]
    assert [step.stage for step in (*encoder, llm)] == ["encoder"] * 3 + ["llm"]
    assert merged.merging == pytest.approx(entered * 1e-6 + 1e-12 + KERNELS_PER_PREFILL * 1e-9)
    assert merged.encoder - without.encoder == pytest.approx(
        entered * 1e-6 + KERNELS_PER_PREFILL * 1e-9, rel=1e-6
    )
    assert merged.prefill - without.prefill == pytest.approx(1e-12, rel=0.1, abs=1e-13)
    assert merged.ttft == pytest.approx(merged.encoder + merged.prefill)


def test_a_budget_merges_where_it_pays():
    """LLM steps are too slow here: of the schedules with this budget, one in the encoder alone is taken."""
    slow = tuple((n, 1.0) for n in (1, 10, 100, 1000))
    found = plan_on(QWEN, LARGE, {"keep": 1 / 9}, rates_of_a_cpu(NOTHING, slow))
    assert found.pays
    assert found.met
    assert found.method.keep == 1 / 9
    assert [step.stage for step in found.prediction.steps] == ["encoder"]
    assert found.prediction.final_tokens == 64
    assert found.reason.startswith("the preset illava-best does not bring the first token sooner here")


def test_without_rates_or_merging_there_is_no_verdict():
    for found in (plan_on(QWEN, LARGE, {"speedup": 2}), plan_on(QWEN, LARGE, {"speedup": 1}, H100)):
        assert found.pays is None
        assert found.refused is None


def test_rates_of_an_accelerator_through_the_api():
    found = plan(config("qwen2_vl"), ttft_ms=1000, picture_size=64, rates=H100)
    assert found.met
    assert found.prediction.final_tokens == found.prediction.visual_tokens
    # Bytes are those of the rates' dtype, not of the skeleton's float32.
    full = plan(config("qwen2_vl"), keep=1 / 3, picture_size=64).prediction.plain_cost.kv_bytes
    assert found.prediction.plain_cost.kv_bytes * 2 == full
    out = plan(config("qwen2_vl"), keep=1 / 3, picture_size=64, rates=H100).to_dict()
    assert out["pays"] is False
    assert out["refused"]["method"]["keep"] == pytest.approx(1 / 3)
    assert out["refused"]["seconds"]["merged"]["merging"] > 0
    assert illava.Method.from_dict(out["method"]).keep == 1


SEVEN = skeleton(published("qwen2-vl-7b"))
BIG = workload(SEVEN, 1344)
FASTEST = plan_on(SEVEN, BIG, {"keep": 1 / 9}, H100).chosen


@pytest.mark.parametrize("speedup", [1.001, 1.015, 1.5])
def test_a_reachable_speedup_is_never_refused(speedup):
    """However mild: the largest budget that reaches it gains no more than was asked for."""
    found = plan_on(SEVEN, BIG, {"speedup": speedup}, H100)
    assert found.met
    assert found.pays
    assert found.refused is None
    assert speedup <= found.chosen.speedup < FASTEST.speedup
    assert "does not" not in found.reason
    # So with milliseconds.
    most = 1e3 * FASTEST.seconds[1].ttft / speedup
    found = plan_on(SEVEN, BIG, {"ttft_ms": most}, H100)
    assert found.met
    assert found.pays
    assert 1e3 * found.chosen.seconds[0].ttft <= most


def test_merging_as_such_is_blamed_only_where_no_schedule_pays():
    # A budget that merging slows down, where smaller ones gain.
    found = plan_on(SEVEN, BIG, {"keep": 0.97}, H100)
    assert found.pays is False
    assert not found.met
    assert found.method.keep == 1
    assert found.refused.method.keep == 0.97
    assert "merging does not pay" not in found.reason
    assert found.reason.startswith("this budget does not bring the first token sooner")
    # Where "merging does not pay" is said, no schedule of any budget does.
    for targets in ({"keep": 0.97}, {"keep": 1 / 9}, {"speedup": 1.01}, {"ttft_ms": 20}):
        found = plan_on(QWEN, SMALL, targets, H100)
        assert keeps_all(found)
    for keep in (0.028, 0.1, 0.5):
        assert not plan_on(QWEN, SMALL, {"keep": keep}, H100).pays


@pytest.mark.parametrize("speedup", [1.01, 3])
def test_a_cache_that_is_small_enough_without_merging_is_no_reason_to_merge(speedup):
    found = plan_on(SEVEN, workload(SEVEN, 224), {"kv_bytes": 1e12, "speedup": speedup}, H100)
    assert keeps_all(found)
    assert not found.met


def test_a_speedup_that_is_reached_pays_beside_a_target_for_the_cache():
    found = plan_on(SEVEN, workload(SEVEN, 672), {"kv_bytes": 1e12, "speedup": 1.01}, H100)
    assert found.met
    assert found.pays
    assert found.chosen.speedup >= 1.01
    assert "does not" not in found.reason


def test_a_schedule_for_the_cache_does_not_blame_merging_as_such():
    found = plan_on(SEVEN, BIG, {"kv_bytes": 132e6}, H100)
    assert found.met
    assert found.pays is False
    assert found.chosen.prediction.cost.kv_bytes <= 132e6 < found.prediction.plain_cost.kv_bytes
    assert "merging does not pay" not in found.reason
    assert "this schedule does not bring the first token sooner" in found.reason


@pytest.mark.parametrize("kv_bytes", [20e6, 6e6])
@pytest.mark.parametrize("unreachable", [{"speedup": 3}, {"ttft_ms": 1}])
def test_an_unreachable_time_does_not_give_up_a_reachable_cache(kv_bytes, unreachable):
    """Even where the fastest schedules have a larger cache than was asked for."""
    work = workload(SEVEN, 672)
    assert plan_on(SEVEN, work, {"kv_bytes": kv_bytes}, H100).met
    found = plan_on(SEVEN, work, {"kv_bytes": kv_bytes, **unreachable}, H100)
    assert not found.met
    assert found.chosen.prediction.cost.kv_bytes <= kv_bytes
    # And the time is hardly more than that of the fastest schedule with such a cache.
    assert (
        found.chosen.speedup * HARDLY * 1.0001 >= plan_on(SEVEN, work, {"keep": 0.028}, H100).chosen.speedup
    )


def test_a_cache_is_not_given_up_where_only_slower_schedules_reach_it():
    """Encoder steps are slow here: the fastest schedules merge in the LLM alone, and have a large cache."""
    plain = rates_of_a_cpu().seconds(plan_on(QWEN, LARGE, {"keep": 1}).prediction.token_counts[1]).ttft
    slow = tuple((n, plain) for n in (1, 10, 100, 1000))
    rates = rates_of_a_cpu(slow, NOTHING)
    limit = 0.3 * plan_on(QWEN, LARGE, {"keep": 1}, rates).prediction.cost.kv_bytes
    found = plan_on(QWEN, LARGE, {"kv_bytes": limit, "speedup": 50}, rates)
    assert found.chosen.prediction.cost.kv_bytes <= limit
    assert plan_on(QWEN, LARGE, {"speedup": 50}, rates).prediction.cost.kv_bytes > limit


def test_rounds_count_in_the_verdict():
    """Of methods that differ in their selection alone, one ranks all units at once."""
    predictor = Predictor(SEVEN, workload(SEVEN, 2240))
    times = timing(predictor, H100)
    diverse = predictor.of(illava.Illava.best(1 / 9))
    highest = predictor.of(replace(illava.Illava.best(1 / 9), select="highest"))
    step = diverse.steps[0]
    assert step.before == 6400 > MAX_PAIRWISE_UNITS
    more = times(diverse)[0].launches - times(highest)[0].launches
    assert more == pytest.approx((step.after + KERNELS_BESIDE_ROUNDS) * H100.launch_seconds)
