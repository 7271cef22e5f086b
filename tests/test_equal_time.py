"""Budgets of equal time: the search against closed forms, and schedules on models of another shape."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illava import UnsupportedError
from illava.bench.published import config as published
from illava.methods import Downsample, Illava, ToMe
from illava.models.layout import workload
from illava.planning.clock import Clock
from illava.planning.equal_time import (
    LEAST,
    ROUNDS,
    budget_for,
    calibrated_budget,
    fitted_budget,
    predicted_budget,
)
from illava.planning.machine_speed import Rates
from illava.planning.mapped import mapped
from illava.planning.predict import Predictor, skeleton
from illava.planning.timing import timing

QWEN = skeleton(published("qwen2-vl-2b"))
SHORT = skeleton(published("qwen2-vl-2b", 8))
"""8 encoder blocks and 8 LLM layers; QWEN has 32 and 28."""
LINEAR = tuple((n, n * 1e-6) for n in (1, 10, 100, 1000, 10000))
SQUARE = tuple((n, n * n * 1e-9) for n in (1, 10, 100, 1000, 10000))
RATES = Rates(LINEAR, LINEAR, SQUARE, LINEAR, LINEAR, LINEAR, SQUARE, LINEAR, ((1, 0.0),))


def line(rest: float, scale: float = 1.0, added: float = 0.0):
    """The speed-up of a method whose time falls from 1 to ``rest``, scaled and shifted."""
    return lambda keep: 1 / (scale * (rest + (1 - rest) * keep) + added)


# -- search ----------------------------------------------------------------------------------------


@given(rest=st.floats(0.05, 0.9), share=st.floats(0.02, 0.98))
def test_the_predicted_budget_is_the_closed_form(rest, share):
    target = 1 / (rest + (1 - rest) * share)
    assert budget_for(line(rest), target) == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize("tokens", [9, 36, 144])
@pytest.mark.parametrize("target", [1.2, 1.9, 2.7, 5.0])
def test_whole_tokens(tokens, target):
    """No number of tokens comes nearer to the target."""

    def speedup(keep: float) -> float:
        return 1 / (0.1 + 0.9 * max(1, round(keep * tokens)) / tokens)

    best = min(abs(math.log(speedup(n / tokens) / target)) for n in range(1, tokens + 1))
    assert abs(math.log(speedup(budget_for(speedup, target)) / target)) == pytest.approx(best)


@settings(max_examples=60)
@given(
    rest=st.floats(0.1, 0.4),
    scale=st.floats(0.7, 1.4),
    added=st.floats(0.0, 0.1),
    share=st.floats(0.1, 0.7),
)
def test_measurements_correct_the_prediction(rest, scale, added, share):
    """The measured share is a linear function of the predicted one, as the fit assumes."""
    measured, calls = line(rest, scale, added), []
    target = measured(share)

    def run(keep: float) -> float:
        calls.append(keep)
        return measured(keep)

    budget = calibrated_budget(line(rest), run, target)
    assert measured(budget.keep) == pytest.approx(target, rel=0.04)
    assert budget.speedup == pytest.approx(measured(budget.keep), rel=0.04)
    assert 1 <= len(calls) <= ROUNDS
    # And with what it has measured it need not run again.
    known = {keep: [measured(keep)] * calls.count(keep) for keep in calls}
    assert calibrated_budget(line(rest), None, target, known) == budget


def test_a_curved_error_is_corrected():
    """A prediction that is wrong by a power is neither scaled nor shifted right."""
    measured = lambda keep: line(0.15)(keep) ** 0.8  # noqa: E731
    for target in (1.5, 2.0, 3.0):
        budget = calibrated_budget(line(0.15), measured, target)
        assert measured(budget.keep) == pytest.approx(target, rel=0.03)


def test_the_line_by_hand():
    """Predicted times 0.2 + 0.8 k; measured 0.60 at k = 0.4 and 0.44 at k = 0.2."""
    points = {0.4: [1 / 0.60], 0.2: [1 / 0.44]}
    # 0.16 of measured time on 0.16 of predicted time: 0.34 is at the prediction 0.36 - 0.10, k = 0.075.
    assert fitted_budget(line(0.2), points, 1 / 0.34) == pytest.approx((0.075, 1 / 0.34), rel=1e-3)
    # One point scales: 0.52 predicted is 0.60, so 0.50 is at 0.4333, k = 0.29167.
    assert fitted_budget(line(0.2), {0.4: [1 / 0.60]}, 2.0) == pytest.approx((0.29167, 2.0), rel=1e-3)
    # Three near the target, of which the median scales 0.52 to 0.60; the far one does not count.
    points = {0.4: [1 / 0.60, 1 / 0.58, 1 / 0.63], LEAST: [9.0]}
    assert fitted_budget(line(0.2), points, 1 / 0.6) == pytest.approx((0.4, 1 / 0.6), rel=1e-3)


def test_noise_is_averaged():
    """Twelve measurements off by up to 8 % put the budget within 3 % of the speed-up."""
    true, noise = (
        line(0.2, 0.9, 0.06),
        [0.92, 1.05, 0.97, 1.08, 1.01, 0.95, 1.06, 0.99, 0.94, 1.03, 1.07, 0.98],
    )
    keeps = [0.55, 0.5, 0.45, 0.4, 0.38, 0.36, 0.34, 0.3, 0.28, 0.26, 0.22, 0.2]
    runs = {keep: [true(keep) * factor] for keep, factor in zip(keeps, noise, strict=True)}
    budget = calibrated_budget(line(0.2), None, 2.0, runs)
    assert true(budget.keep) == pytest.approx(2.0, rel=0.03)
    # The nearest measurement alone would be further off.
    nearest = min(runs, key=lambda keep: abs(runs[keep][0] - 2.0))
    assert abs(true(nearest) - 2.0) > abs(true(budget.keep) - 2.0)


@pytest.mark.parametrize("factor", [0.7, 0.85, 1.2, 1.4])
def test_one_disturbed_measurement_does_not_decide(factor):
    """The first measurement is off; the others are right, and the prediction is not."""
    true, calls = line(0.2, 0.9, 0.06), []

    def run(keep: float) -> float:
        calls.append(keep)
        return true(keep) * (factor if len(calls) == 1 else 1.0)

    budget = calibrated_budget(line(0.2), run, 2.0)
    assert true(budget.keep) == pytest.approx(2.0, rel=0.05)


def test_methods_that_end_earlier():
    calls = []

    def run(keep: float) -> float:
        calls.append(keep)
        return line(0.6)(keep)

    budget = calibrated_budget(line(0.55), run, 3.0)
    assert (budget.keep, budget.ends, calls) == (LEAST, True, [LEAST])
    assert predicted_budget(line(0.6), 3.0).ends
    # Where little is missing, it is measured twice; and what is known need not be.
    calls.clear()
    budget = calibrated_budget(line(0.55), run, 1.8)
    assert (budget.ends, calls) == (True, [LEAST, LEAST])
    assert calibrated_budget(line(0.55), run, 1.9, {LEAST: [1.6, 1.7]}).ends
    assert calls == [LEAST, LEAST]
    # Within the tolerance of 5 % the target counts as reached.
    assert not predicted_budget(line(0.0, 1.0, 1 / 2.9 - LEAST), 3.0).ends
    assert predicted_budget(line(0.0, 1.0, 1 / 2.8 - LEAST), 3.0).ends
    # A prediction that promises too little does not end a method: the model itself is measured.
    assert not calibrated_budget(line(0.4), line(0.2), 3.0).ends
    # Noise makes another budget the fastest of a flat curve, which ends all the same.
    flat = calibrated_budget(line(0.5), lambda keep: 1.6 if keep == LEAST else 1.65, 3.0, {0.027: [1.65]})
    assert (flat.ends, flat.keep, flat.speedup) == (True, 0.027, 1.65)


# -- another shape ---------------------------------------------------------------------------------


def counts(plan, modules):
    """Layer -> visual units before and after each step, at 576 units."""
    prediction = Predictor(modules, workload(modules, 672)).of_plan(plan, {})
    return [(step.stage, step.layer, step.before, step.after) for step in prediction.steps]


MIDDLE = replace(Illava.best(1 / 9), where="middle", encoder_share=0.5, proportional=None)


def test_the_middle_is_at_the_middle_everywhere():
    assert mapped(MIDDLE.plan(SHORT), SHORT, QWEN) == MIDDLE.plan(QWEN)


def test_the_late_steps_of_nine_blocks_are_those_of_the_preset():
    # zoo/R's depth, of which 5/9 and 7/9 are whole blocks.
    nine = skeleton(published("qwen2-vl-2b", 9))
    late = Illava.best(1 / 9)
    assert [*mapped(late.plan(nine), nine, QWEN).encoder] == [*late.plan(QWEN).encoder]


def test_a_schedule_by_hand():
    method = Illava(encoder_layers=(0, 5), encoder_keep=0.5, llm_layers=(1, 2), llm_keep=0.25)
    # Blocks, from 1: 1/8 and 6/8 of 32. Layers: 1/8 of 28 is 3.5, of the two nearest the first; 2/8 is 7.
    assert counts(mapped(method.plan(SHORT), SHORT, QWEN), QWEN) == [
        ("encoder", 3, 576, 288),
        ("encoder", 23, 288, 144),
        ("llm", 3, 144, 36),
        ("llm", 7, 36, 9),
    ]


def test_steps_that_fall_together():
    """Blocks 0, 1 and 2 of 32 are nearest to block 0 of 8, and no step is lost."""
    method = Illava(encoder_layers=(0, 1, 2), encoder_keep=0.5, llm_layers=(), llm_keep=None)
    assert counts(mapped(method.plan(QWEN), QWEN, SHORT), SHORT) == [("encoder", 0, 576, 72)]
    # ToMe's 32 steps leave the same number of units on 8 blocks, four steps on each.
    steps = counts(mapped(ToMe(keep=1 / 9).plan(QWEN), QWEN, SHORT), SHORT)
    deep = counts(ToMe(keep=1 / 9).plan(QWEN), QWEN)
    assert len(steps) == 8
    assert steps[-1][3] == deep[-1][3] == 64
    # Steps 1 to 5 of 32 are at or before depth 1/8 plus half a block.
    assert steps[0][3] in {after for _, block, _, after in deep if block in (3, 4, 5)}


def test_clocks():
    small, large = workload(QWEN, 224), workload(QWEN, 672)
    method = MIDDLE

    def alone(work):
        predictor = Predictor(QWEN, work)
        merged, plain = timing(predictor, RATES)(predictor.of(method))
        return plain.ttft / merged.ttft

    assert alone(small) != pytest.approx(alone(large), rel=0.05)
    # The median of three prompts, two of them equal.
    assert Clock(QWEN, [small, large, large], RATES).speedup(method) == alone(large)
    # The same schedule at the same relative depths takes the time of the shape.
    assert Clock(QWEN, [large], RATES, planned_on=SHORT).speedup(method) == alone(large)
    assert Clock(QWEN, [large], RATES).speedup(Illava(keep=1.0)) == 1


def test_smaller_images_have_no_counterpart_on_tiles():
    tiles = skeleton(published("llava-onevision-0.5b"))
    clock = Clock(tiles, [workload(tiles)], RATES, planned_on=QWEN)
    with pytest.raises(UnsupportedError, match="encodes a smaller image"):
        clock.speedup(Downsample(keep=0.25))
