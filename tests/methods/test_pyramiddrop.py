"""PyramidDrop against loops, and on tiny models against a prefill that drops by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import illava
from illava.methods.pyramiddrop import PyramidDrop
from illava.methods.steps import Units
from illava.models.located import locate
from tests.core.cases import assert_same_bits, bounded, grid_units
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


def stages(method, n, steps=None):
    """Counts of one segment after each stage, with scores that have ties, and the survivors."""
    left, out = list(range(n)), []
    vectors = grid_units(n, 3, seed=n)
    for step in (steps or method.plan(LLAVA).llm).values():
        scores = torch.tensor([float(i * 7 % 5) for i in left])
        reduced = step.reduce(Units(vectors[left], scores, (len(left),), (n,)))
        if reduced is not None:
            expected = sorted(ranked(scores.tolist())[: len(reduced.kept)])
            assert reduced.kept.tolist() == expected
            left = [left[i] for i in expected]
            assert_same_bits(reduced.units, vectors[left])
        out.append(len(left))
    return out


@pytest.mark.parametrize(
    ("n", "counts"), [(576, [288, 144, 72]), (37, [18, 9, 4]), (9, [4, 2, 1]), (3, [1, 1, 1]), (1, [1, 1, 1])]
)
def test_published_ratios_round_down(n, counts):
    assert stages(PyramidDrop(), n) == counts == [max(1, int(n * r)) for r in (0.5, 0.25, 0.125)]


@bounded
@given(n=st.integers(1, 300), keep=st.floats(0.001, 0.999))
def test_a_budget_is_met_exactly_in_a_geometric_series(n, keep):
    counts = stages(PyramidDrop(keep=keep), n)
    last = budget(n, keep)
    assert counts == [max(last, int(n * keep ** (1 / 3))), max(last, int(n * keep ** (2 / 3))), last]


def test_other_numbers_of_stages():
    assert stages(PyramidDrop(layers=(2,)), 64) == [8]
    assert stages(PyramidDrop(layers=(1, 4)), 64) == [int(64 * 0.125**0.5), 8]
    assert stages(PyramidDrop(layers=(1, 2, 3, 4), keep=1 / 16), 64) == [32, 16, 8, 4]


def dropping(counted):
    def step(state):
        left = []
        for full, run in zip(state.full, state.runs, strict=True):
            scores = state.paid([max(state.hidden)], run)
            best = sorted(ranked(scores)[: counted(len(full))])
            left.append({run[i]: state.hidden[run[i]] for i in best})
        return left

    return step


PUBLISHED = [dropping(lambda n, r=r: max(1, int(n * r))) for r in (0.5, 0.25, 0.125)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_drops_by_the_layers_own_attention(family):
    layers = (2, 3, 4) if family == "qwen3_vl" else (1, 2, 3)
    steps = dict(zip(layers, PUBLISHED, strict=True))
    check_against_naive(family, PyramidDrop(), steps, itself=True, compact=True)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_budget_on_layers_of_ones_own(family):
    steps = {
        2: dropping(lambda n: max(budget(n, 0.2), int(n * 0.2**0.5))),
        4: dropping(lambda n: budget(n, 0.2)),
    }
    check_against_naive(family, PyramidDrop(layers=(2, 4), keep=0.2), steps, itself=True, compact=True)


def test_the_whole_and_nothing():
    check_keep_one_and_removal(PyramidDrop(), PyramidDrop(keep=1.0))


def test_decoding_with_a_cache_is_decoding_without():
    check_cached_decoding(PyramidDrop())


def test_layers_are_scaled_with_depth():
    def layers(depth, first=1, windows=None):
        family = SimpleNamespace(first_llm_layer=lambda config: first)
        modules = SimpleNamespace(
            family=family, config=None, layers=[None] * depth, windows=windows or [None] * depth
        )
        return list(PyramidDrop().plan(modules).llm)

    assert layers(32) == [8, 16, 24]
    assert layers(28) == [7, 14, 21]
    assert layers(36, first=3) == [9, 18, 27]
    assert layers(6) == [1, 3, 4]
    assert layers(4) == [1, 2, 3]
    assert layers(5, first=2) == [2, 3, 4]
    assert layers(3) == [1, 2]
    assert layers(2) == [1]
    with pytest.raises(ValueError, match="this LLM has 1 layers"):
        layers(1)
    # Every sixth layer sees the whole prompt.
    assert layers(34, windows=[None if i % 6 == 5 else 9 for i in range(34)]) == [5, 17, 23]
    assert layers(32, windows=[9] * 32) == [8, 16, 24]
    # A stage leaves those behind it a place.
    assert layers(34, windows=[None if i in (4, 16, 17) else 9 for i in range(34)]) == [4, 16, 17]


def test_a_shallow_model_ends_at_the_budget():
    modules = SimpleNamespace(
        family=SimpleNamespace(first_llm_layer=lambda config: 1),
        config=None,
        layers=[0] * 3,
        windows=[None] * 3,
    )
    steps = PyramidDrop(keep=0.3).plan(modules).llm
    assert stages(None, 50, steps) == [int(50 * 0.3 ** (2 / 3)), 15]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": (0, 1)}, "layers must be whole numbers from 1 up"),
        ({"layers": (3, 2)}, "layers must be ascending without repeats"),
        ({"layers": ()}, "layers needs at least one layer, or None"),
        ({"layers": 3}, "layers must be a tuple of whole numbers, got 3"),
        ({"keep": 0}, r"keep must lie in \(0, 1\], got 0"),
    ],
)
def test_bad_values_say_what_would_be_right(values, message):
    with pytest.raises(ValueError, match=message) as error:
        PyramidDrop(**values)
    assert "\n" not in str(error.value)


def test_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="layers: must lie in 1 to 4 on this model, got 5"):
        illava.accelerate(model_of("llava"), PyramidDrop(layers=(1, 5)))


@pytest.mark.parametrize("method", [PyramidDrop(), PyramidDrop(layers=[1, 2], keep=0.25)])
def test_json(method):
    json_round_trip(method)
