"""DART against a loop, and on tiny models against a prefill that drops by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import illava
from illava.methods.dart import DART, keep_dissimilar
from illava.methods.steps import Tokens, Units
from illava.models.located import locate
from tests.core.cases import assert_same_bits, bounded
from tests.methods.loops_llm import budget, ranked, unlike_loop
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


def signs(*shape, seed):
    """Vectors of +-1, four a row: lengths and cosines are exact, and ties among cosines are everywhere."""
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norms_of(*shape, seed):
    """A few values, so that many are equal."""
    return torch.randint(1, 6, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("draw", [signs, normal])
@settings(bounded, max_examples=100)
@given(data=st.data(), seed=st.integers(0, 2**31), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_one_segment_equals_the_loop(draw, data, seed, dtype):
    n, words = data.draw(st.integers(2, 40)), data.draw(st.integers(0, 4))
    count = data.draw(st.integers(1, n - 1))
    x, w = draw(n, 4, seed=seed).to(dtype), draw(4, 4, seed=seed + 1).to(dtype)
    norms = norms_of(n, seed=seed)
    merged = keep_dissimilar(count, x[None], norms[None], w[None], torch.tensor([words]))
    expected = unlike_loop(x.tolist(), norms.tolist(), w[:words].tolist(), [1.0] * words, count)
    assert merged.kept[0].tolist() == expected
    assert_same_bits(merged.units[0], x[expected])
    best = ranked(norms.tolist())[: min(4, count)]
    assert set(best) <= set(expected)
    # Lengths of hidden states do not matter; powers of two change no bit of a cosine.
    longer = x * 2.0 ** torch.arange(n)[:, None].remainder(5)
    assert keep_dissimilar(count, longer[None], norms[None], w[None], torch.tensor([words])).kept[
        0
    ].tolist() == (expected)


def lay_out(rows, width, draw, seed):
    """A batch of (text, visual, text, visual, ...) lengths, left-padded: tokens, and what is in every row."""
    total = max(map(sum, rows)) + 1
    hidden, seen = draw(len(rows), total, width, seed=seed), norms_of(len(rows), total, seed=seed)
    runs = torch.full((len(rows), total), -1)
    columns = torch.full((len(rows), total), -1)
    number = 0
    for b, modules in enumerate(rows):
        at = total - sum(modules)
        columns[b, at:] = torch.arange(at, total)
        for i, n in enumerate(modules):
            if i % 2:
                runs[b, at : at + n] = number
                number += 1
            at += n
    return Tokens(hidden, runs, columns, torch.full((len(rows),), total - 1), seen)


@settings(bounded, max_examples=100)
@given(
    rows=st.lists(
        st.lists(st.integers(1, 9), min_size=3, max_size=7).filter(lambda modules: len(modules) % 2),
        max_size=4,
    ).filter(bool),
    keep=st.sampled_from([0.2, 0.5, 0.8]),
    draw=st.sampled_from([signs, normal]),
    seed=st.integers(0, 2**31),
)
def test_every_run_has_its_own_pivots_and_words(rows, keep, draw, seed):
    tokens = lay_out(rows, 4, draw, seed)
    visual = tokens.runs >= 0
    lengths = tuple(n for modules in rows for n in modules[1::2])
    units = Units(tokens.hidden[visual], tokens.seen[visual], lengths, lengths, tokens=tokens)
    (step,) = DART(keep=keep).plan(LLAVA).llm.values()
    reduced = step.reduce(units)
    expected, start = [], 0
    for b, modules in enumerate(rows):
        at = tokens.runs.shape[1] - sum(modules)
        for i, n in enumerate(modules):
            if i % 2:
                end = at + n
                words = [c for c in range(end, tokens.runs.shape[1]) if tokens.runs[b, c] < 0]
                kept = unlike_loop(
                    tokens.hidden[b, at:end].tolist(),
                    tokens.seen[b, at:end].tolist(),
                    tokens.hidden[b, words].tolist(),
                    tokens.seen[b, words].tolist(),
                    budget(n, keep),
                )
                expected += [start + k for k in kept]
                start += n
            at += n
    if len(expected) == len(units.vectors):
        assert reduced is None
        return
    assert reduced.kept.tolist() == expected
    assert reduced.lengths == tuple(budget(n, keep) for n in lengths)
    assert_same_bits(reduced.units, units.vectors[expected])


def test_words_that_were_generated_are_no_pivots():
    tokens = lay_out([[2, 20, 6]], 4, normal, 5)
    visual = tokens.runs >= 0
    (step,) = DART(keep=0.5).plan(LLAVA).llm.values()

    def kept(tokens):
        return step.reduce(
            Units(tokens.hidden[visual], tokens.seen[visual], (20,), (20,), tokens=tokens)
        ).kept

    shorter = Tokens(tokens.hidden, tokens.runs, tokens.columns, tokens.last - 5, tokens.seen)
    expected = unlike_loop(
        tokens.hidden[visual].tolist(), tokens.seen[visual].tolist(), tokens.hidden[:, -6].tolist(), [1.0], 10
    )
    assert kept(shorter).tolist() == expected != kept(tokens).tolist()


def test_a_copy_of_a_pivot_goes_first():
    x = torch.eye(6)
    x[5] = x[0]
    merged = keep_dissimilar(
        5, x[None], torch.tensor([[9.0, 8.0, 7.0, 6.0, 1.0, 2.0]]), torch.zeros(1, 0, 6), torch.tensor([0])
    )
    assert merged.kept.tolist() == [[0, 1, 2, 3, 4]]


def dropping(keep):
    def step(state):
        # All key heads of a token side by side.
        norms = state.keys.double().abs().sum((0, 2)).tolist()
        left = []
        for full, run in zip(state.full, state.runs, strict=True):
            words = [c for c in state.words if c > full[-1]]
            kept = unlike_loop(
                [state.hidden[c].tolist() for c in run],
                [norms[state.place[c]] for c in run],
                [state.hidden[c].tolist() for c in words],
                [norms[state.place[c]] for c in words],
                budget(len(full), keep),
            )
            left.append({run[i]: state.hidden[run[i]] for i in kept})
        return left

    return step


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_keeps_what_is_unlike(family):
    check_against_naive(family, DART(keep=0.5), {2: dropping(0.5)}, counted=True)


def test_the_published_share_and_another_layer():
    check_against_naive("llava", DART(layer=3), {3: dropping(2 / 9)}, counted=True)


def test_the_whole_and_nothing():
    check_keep_one_and_removal(DART(), DART(keep=1.0))


def test_decoding_with_a_cache_is_decoding_without():
    check_cached_decoding(DART(keep=0.4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layer": 0}, "layer must be a whole number from 1 up, got 0"),
        ({"layer": "2"}, "layer must be a whole number"),
        ({"keep": 1.01}, r"keep must lie in \(0, 1\], got 1.01"),
    ],
)
def test_bad_values_say_what_would_be_right(values, message):
    with pytest.raises(ValueError, match=message) as error:
        DART(**values)
    assert "\n" not in str(error.value)


def test_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="layer: must lie in 1 to 4 on this model, got 9"):
        illava.accelerate(model_of("llava"), DART(layer=9))


@pytest.mark.parametrize("method", [DART(), DART(layer=3, keep=0.25)])
def test_json(method):
    json_round_trip(method)
