"""SparseVLM against loops, and on tiny models against a prefill that drops and recycles by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import illava
from illava.methods.sparsevlm import SparseVLM, raters, recycle_clusters, recycled_count, shares, split_count
from illava.methods.steps import Tokens, Units
from illava.models.located import locate
from tests.core.cases import assert_same_bits, assert_within_one_ulp, bounded, score_values
from tests.methods.loops_llm import (
    budget,
    clusters_for,
    ranked,
    raters_loop,
    recycle_loop,
    split_loop,
)
from tests.methods.naive_llm import (
    FAMILIES,
    check_against_naive,
    check_cached_decoding,
    check_keep_one_and_removal,
    json_round_trip,
    model_of,
)
from tests.methods.test_density_peaks import normal, on_a_line
from tests.tiny import tiny_model

LLAVA = locate(tiny_model("llava"))


# How many stay


@pytest.mark.parametrize(
    ("keep", "kept"),
    [(113 / 576, [300, 200, 110]), (39 / 576, [303, 110, 36]), (18 / 576, [66, 30, 17])],
)
def test_the_published_counts(keep, kept):
    left = 576
    for share, count in zip(shares(keep), kept, strict=True):
        p, clusters = split_count(left, round(576 * share))
        assert (p, clusters) == (count, clusters_for(left - count))
        left = p + clusters
    assert left == round(576 * keep)


@bounded
@given(keep=st.floats(0.0001, 1))
def test_shares_fall_to_the_budget(keep):
    first, second, third = shares(keep)
    assert 1 >= first >= second >= third == keep
    assert shares(1.0) == (1, 1, 1)


def test_shares_between_the_published_ones():
    middle = (shares(18 / 576)[0] + shares(39 / 576)[0]) / 2
    assert shares(28.5 / 576)[0] == pytest.approx(middle)
    assert shares(9 / 576)[1] == pytest.approx(16 / 576)
    assert shares((113 + 576) / 2 / 576)[1] == pytest.approx((204 + 576) / 2 / 576)


@settings(bounded, max_examples=300)
@given(n=st.integers(2, 1500), part=st.floats(0, 1))
def test_tokens_and_clusters_make_up_the_count(n, part):
    count = 1 + int(part * (n - 2))
    p, clusters = split_count(n, count)
    assert (p, clusters) == split_loop(n, count)
    assert p >= 1
    assert p + clusters == count
    assert clusters <= recycled_count(n - p) <= n - p


def test_the_share_that_is_recycled():
    for dropped in range(1, 3000):
        assert recycled_count(dropped) == int(0.3 * dropped) + 1


# One step


@pytest.mark.parametrize("draw", [normal, on_a_line])
@settings(bounded, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**31), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_step_equals_the_loop(draw, data, seed, dtype):
    n = data.draw(st.integers(2, 60))
    count = data.draw(st.integers(1, n - 1))
    scores = data.draw(st.lists(score_values, min_size=n, max_size=n))
    x = draw(n, 4, seed=seed).to(dtype)
    merged = recycle_clusters(count, x[None], torch.tensor([scores]))
    places, vectors = recycle_loop(x.tolist(), scores, count)
    assert merged.kept[0].tolist() == places
    assert len(places) == count
    assert merged.units.dtype == dtype
    assert_within_one_ulp(merged.units[0], torch.tensor(vectors, dtype=torch.float64))
    # The best one always stays, with the others ahead of those that go, untouched.
    kept = sorted(ranked(scores)[: split_loop(n, count)[0]])
    at = [places.index(i) for i in kept]
    assert_same_bits(merged.units[0, at], x[kept])


@bounded
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4), keep=st.sampled_from([0.02, 0.2, 0.6]))
def test_segments_of_any_size_meet_the_budget_over_three_steps(lengths, keep):
    vectors, left = normal(sum(lengths), 4, seed=sum(lengths)), tuple(lengths)
    expected = [rows.tolist() for rows in vectors.split(lengths)]
    for number, step in enumerate(SparseVLM(keep=keep).plan(LLAVA).llm.values()):
        scores = torch.rand(sum(left), generator=torch.Generator().manual_seed(number))
        reduced = step.reduce(Units(vectors, scores, left, tuple(lengths)))
        for s, own in enumerate(scores.split(left)):
            if lengths[s]:
                count = min(left[s], budget(lengths[s], shares(keep)[number]))
                expected[s] = recycle_loop(expected[s], own.tolist(), count)[1]
        if reduced is not None:
            vectors, left = reduced.units, reduced.lengths
        rows = [row for own in expected for row in own]
        torch.testing.assert_close(vectors.tolist(), rows, atol=1e-5, rtol=0)
    assert left == tuple(budget(n, keep) if n else 0 for n in lengths)


# Raters


def tokens_of(rows, seed=0, width=6):
    """Rows written as letters: t text, v visual, . padding, g text behind the prompt."""
    total = max(map(len, rows))
    rows = ["." * (total - len(row)) + row for row in rows]
    runs, columns = (torch.full((len(rows), total), -1) for _ in range(2))
    number = -1
    for b, row in enumerate(rows):
        for c, letter in enumerate(row):
            columns[b, c] = -1 if letter == "." else c
            if letter == "v":
                number += not (c and row[c - 1] == "v")
                runs[b, c] = number
    last = torch.tensor([row.rindex("t") for row in rows])
    return Tokens(normal(len(rows), total, width, seed=seed), runs, columns, last), rows


@bounded
@given(
    rows=st.lists(st.from_regex(r"t{1,3}(v{1,6}t{1,6}){1,3}g{0,3}", fullmatch=True), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
)
def test_raters_equal_the_loop(rows, seed):
    tokens, rows = tokens_of(rows, seed)
    rating = raters(tokens)
    for b, row in enumerate(rows):
        words = [c for c, letter in enumerate(row) if letter == "t" and c > row.index("v")]
        shown = [c for c, letter in enumerate(row) if letter == "v"]
        found = raters_loop(tokens.hidden[b, shown].tolist(), tokens.hidden[b, words].tolist())
        expected = [words[t] for t in found] or [int(tokens.last[b])]
        assert rating[b].nonzero().flatten().tolist() == expected


def test_without_a_picture_or_a_choice_the_last_token_rates():
    tokens, _ = tokens_of(["ttt", "ttvvvt", "tvvtt"])
    tokens.hidden[2, -2:] = 0
    assert raters(tokens).nonzero().tolist() == [[0, 5], [1, 5], [2, 5]]


def test_raters_are_found_again_by_their_columns():
    tokens, _ = tokens_of(["tvvvvtttt", "tttvvtvvvtt"], seed=4)
    (step, *_) = SparseVLM().plan(LLAVA).llm.values()
    context, rating = step.enter(tokens), raters(tokens)
    # Visual tokens left, and with them some places.
    stays = [[0, 1, 2, 3, 7, 8, 9, 10], [0, 1, 2, 4, 5, 8, 9, 10]]
    later = Tokens(
        *(
            torch.stack([t[b, s] for b, s in enumerate(stays)])
            for t in (tokens.hidden, tokens.runs, tokens.columns)
        ),
        torch.tensor([7, 7]),
    )
    asked = []
    step.observe_llm(SimpleNamespace(tokens=later, by_rows=asked.append), context)
    assert asked[0].tolist() == [[bool(rating[b, c]) for c in s] for b, s in enumerate(stays)]
    # Padding is no word, whatever stands in the prompt's first column.
    step.observe_llm(SimpleNamespace(tokens=later, by_rows=asked.append), torch.ones_like(context))
    assert torch.equal(asked[1], later.columns >= 0)
    assert not asked[1].all()


# In a model


def recycling(keep, number):
    def step(state):
        words = [c for c in state.words if c > state.full[0][0]]
        shown = [state.entry[c].tolist() for run in state.full for c in run]
        rating = [words[t] for t in raters_loop(shown, [state.entry[c].tolist() for c in words])]
        left = []
        for full, run in zip(state.full, state.runs, strict=True):
            scores = state.paid(rating or words[-1:], run)
            vectors = [state.hidden[c].tolist() for c in run]
            places, rows = recycle_loop(vectors, scores, budget(len(full), shares(keep)[number]))
            left.append({run[i]: torch.tensor(x) for i, x in zip(places, rows, strict=True)})
        return left

    return step


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_recycles_what_its_words_do_not_look_at(family):
    layers = (2, 3, 4) if family == "qwen3_vl" else (1, 2, 3)
    steps = {layer: recycling(113 / 576, i) for i, layer in enumerate(layers)}
    check_against_naive(family, SparseVLM(), steps)


@pytest.mark.parametrize(("family", "keep"), [("llava", 0.5), ("qwen2_vl", 0.1)])
def test_a_budget_on_layers_of_ones_own(family, keep):
    steps = {layer + 1: recycling(keep, i) for i, layer in enumerate((0, 2, 3))}
    check_against_naive(family, SparseVLM(layers=(0, 2, 3), keep=keep), steps)


def test_the_whole_and_nothing():
    check_keep_one_and_removal(SparseVLM(), SparseVLM(keep=1.0))


def test_decoding_with_a_cache_is_decoding_without():
    check_cached_decoding(SparseVLM())


def test_layers_are_scaled_with_depth():
    def layers(depth, first=1):
        family = SimpleNamespace(first_llm_layer=lambda config: first)
        modules = SimpleNamespace(family=family, config=None, layers=[0] * depth, windows=[None] * depth)
        plan = SparseVLM(keep=0.3).plan(modules)
        assert list(plan.llm.values())[-1].keep == 0.3
        return list(plan.llm)

    assert layers(32) == [3, 7, 16]
    assert layers(28) == [2, 6, 14]
    assert layers(36, first=3) == [3, 7, 17]
    assert layers(6) == [1, 2, 3]
    assert layers(3) == [1, 2]


def test_gradients_flow_through_means():
    x = normal(1, 20, 4, seed=1).requires_grad_()
    recycle_clusters(6, x, torch.arange(20.0)[None]).units.sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad[0, 15:] == 1).all()
    assert x.grad.sum() == pytest.approx(6 * 4, abs=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": (1, 2)}, r"layers must be three layers, or None for the published ones, got \(1, 2\)"),
        ({"layers": (3, 2, 1)}, "layers must be ascending without repeats"),
        ({"layers": (-1, 2, 3)}, "layers must be whole numbers from 0 up"),
        ({"keep": 0}, r"keep must lie in \(0, 1\], got 0"),
        ({"keep": float("nan")}, "keep must lie in"),
    ],
)
def test_bad_values_say_what_would_be_right(values, message):
    with pytest.raises(ValueError, match=message) as error:
        SparseVLM(**values)
    assert "\n" not in str(error.value)


def test_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="layers: must lie in 0 to 3 on this model, got 4"):
        illava.accelerate(model_of("llava"), SparseVLM(layers=(0, 1, 4)))


@pytest.mark.parametrize("method", [SparseVLM(), SparseVLM(layers=[1, 2, 3], keep=0.25)])
def test_json(method):
    json_round_trip(method)
