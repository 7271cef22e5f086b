"""FastV against a loop, and on tiny models against a prefill that drops by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import illava
from illava.methods.fastv import FastV
from illava.methods.steps import Units
from illava.models.located import locate
from tests.core.cases import assert_same_bits, bounded, grid_units, score_values
from tests.methods.loops_llm import budget, ranked
from tests.methods.naive_llm import (
    FAMILIES,
    check_against_naive,
    check_cached_decoding,
    check_keep_one_and_removal,
    json_round_trip,
    model_of,
)
from tests.tiny import tiny_model

LLAVA = locate(tiny_model("llava"))


@bounded
@given(data=st.data(), keep=st.sampled_from([0.01, 0.3, 0.5, 0.9]))
def test_the_best_scored_of_every_segment_stay(data, keep):
    lengths = tuple(data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=4)))
    scores = data.draw(st.lists(score_values, min_size=sum(lengths), max_size=sum(lengths)))
    vectors = grid_units(sum(lengths), 3, seed=len(scores))
    (step,) = FastV(keep=keep).plan(LLAVA).llm.values()
    reduced = step.reduce(Units(vectors, torch.tensor(scores), lengths, lengths))
    expected, start = [], 0
    for n in lengths:
        if n:
            best = ranked(scores[start : start + n])[: budget(n, keep)]
            expected += [start + i for i in sorted(best)]
        start += n
    if len(expected) == len(vectors):
        assert reduced is None
        return
    assert reduced.kept.tolist() == expected
    assert reduced.lengths == tuple(budget(n, keep) if n else 0 for n in lengths)
    assert_same_bits(reduced.units, vectors[expected])


def dropping(keep):
    def step(state):
        left = []
        for full, run in zip(state.full, state.runs, strict=True):
            scores = state.paid([max(state.hidden)], run)
            best = sorted(ranked(scores)[: budget(len(full), keep)])
            left.append({run[i]: state.hidden[run[i]] for i in best})
        return left

    return step


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_drops_what_its_attention_says(family):
    check_against_naive(family, FastV(), {2: dropping(0.5)})


def test_another_layer_and_share():
    check_against_naive("llava", FastV(layer=4, keep=0.1), {4: dropping(0.1)})


def test_the_whole_and_nothing():
    check_keep_one_and_removal(FastV(), FastV(keep=1.0))


def test_decoding_with_a_cache_is_decoding_without():
    check_cached_decoding(FastV(keep=0.2))


def test_deepstack_moves_the_published_layer_on():
    model = tiny_model("qwen3_vl", deepstack_visual_indexes=[1, 2, 3])
    assert list(FastV().plan(locate(model)).llm) == [3]
    with pytest.raises(ValueError, match="layer: must lie in 3 to 4 on this model, got 2"):
        illava.accelerate(model, FastV(layer=2))


def test_a_layer_that_sees_a_window_is_not_asked():
    def layer(windows, first=1):
        family = SimpleNamespace(first_llm_layer=lambda config: first)
        modules = SimpleNamespace(family=family, config=None, layers=windows, windows=windows)
        return next(iter(FastV().plan(modules).llm))

    assert layer([None] * 8) == layer([9] * 8) == 2
    assert layer([9, 9, None, 9, 9, None, 9, 9]) == 3
    assert layer([9, 9, None, 9, 9, None, 9, 9], first=4) == 6
    assert layer([None, 9, 9, None, 9, 9, 9, 9]) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layer": 0}, "layer must be a whole number from 1 up, got 0"),
        ({"layer": 2.0}, "layer must be a whole number"),
        ({"layer": True}, "layer must be a whole number"),
        ({"keep": 0}, r"keep must lie in \(0, 1\], got 0"),
        ({"keep": "half"}, "keep must lie in"),
    ],
)
def test_bad_values_say_what_would_be_right(values, message):
    with pytest.raises(ValueError, match=message) as error:
        FastV(**values)
    assert "\n" not in str(error.value)


def test_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="layer: must lie in 1 to 4 on this model, got 5"):
        illava.accelerate(model_of("llava"), FastV(layer=5))


@pytest.mark.parametrize("method", [FastV(), FastV(layer=3, keep=0.25), FastV(layer=1)])
def test_json(method):
    json_round_trip(method)
