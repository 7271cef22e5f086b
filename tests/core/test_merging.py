"""merging.py against the loops of loops.py, and against what a merge step must never do."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illava.ops.merging import REDUCTIONS, keep_count, merge, recycler_count
from illava.ops.scoring import unit_scores
from tests.core.cases import (
    DTYPES,
    assert_merged_like_loop,
    assert_same_bits,
    bounded,
    grid_units,
    normal_units,
    ratios,
    segments,
)
from tests.core.loops import dot, merge_loop, ranked, round_half_even, softmax

# How many survive


@settings(bounded, max_examples=500)
@given(n=st.integers(1, 5000), keep=ratios)
def test_keep_count_is_the_rounded_share(n, keep):
    p = keep_count(n, keep)
    assert isinstance(p, int)
    assert p == max(1, round_half_even(keep * n))
    assert 1 <= p <= n


@pytest.mark.parametrize(
    ("n", "keep", "p"),
    [
        (1, 1.0, 1),
        (1, 0.01, 1),
        (1, 0.5, 1),  # round(0.5) is 0
        (5, 0.5, 2),  # halves go to the even number
        (7, 0.5, 4),
        (100, 0.001, 1),
        (10, 0.96, 10),
        (576, 1 / 9, 64),
        (729, 637 / 729, 637),
        (729, 1.0, 729),
    ],
)
def test_keep_count_examples(n, keep, p):
    assert keep_count(n, keep) == p


@pytest.mark.parametrize("keep", [0, 0.0, -0.1, 1.0000001, 2, math.inf, -math.inf, math.nan])
def test_keep_count_refuses_a_ratio_outside_0_1(keep):
    with pytest.raises(ValueError, match="keep"):
        keep_count(10, keep)


@pytest.mark.parametrize("n", [0, -1])
def test_keep_count_refuses_an_empty_segment(n):
    with pytest.raises(ValueError, match="at least one unit"):
        keep_count(n, 0.5)


@bounded
@given(p=st.integers(1, 3000), recycle=st.floats(0, 3, allow_subnormal=False))
def test_recycler_count_is_the_rounded_share(p, recycle):
    assert recycler_count(p, recycle) == min(p, max(1, round_half_even(recycle * p)))


@pytest.mark.parametrize(
    ("p", "recycle", "c"),
    [(1, 0.05, 1), (29, 0.05, 1), (30, 0.05, 2), (50, 0.05, 2), (637, 0.05, 32), (4, 9, 4)],
)
def test_recycler_count_examples(p, recycle, c):
    # 0.05 * 30 is 1.5 and rounds to 2; 0.05 * 50 is 2.5 and rounds to 2.
    assert recycler_count(p, recycle) == c


# One merge step


@settings(bounded, max_examples=200)
@given(
    case=segments(),
    recycle=st.sampled_from([0.0, 0.05, 0.3, 0.5, 1.0, 4.0]),
    neighbours=st.sampled_from([1, 2, 5, 30]),
)
def test_recycle_equals_the_loop(case, recycle, neighbours):
    units, scores, p = case
    merged = merge(units, scores, p, recycle=recycle, neighbours=neighbours)
    for s in range(len(units)):
        expected = merge_loop(units[s], scores[s], p, "recycle", recycle, neighbours)
        assert_merged_like_loop(merged.units[s], merged.kept[s], units[s], expected)


@bounded
@given(case=segments())
def test_defaults_are_the_papers(case):
    units, scores, p = case
    merged = merge(units, scores, p)
    for s in range(len(units)):
        expected = merge_loop(units[s], scores[s], p, "recycle", recycle=0.05, neighbours=5)
        assert_merged_like_loop(merged.units[s], merged.kept[s], units[s], expected)


@bounded
@given(case=segments())
def test_drop_keeps_the_best_as_they_are(case):
    units, scores, p = case
    merged = merge(units, scores, p, reduce="drop")
    for s in range(len(units)):
        best = sorted(ranked(scores[s])[:p])
        assert merged.kept[s].tolist() == best
        assert_same_bits(merged.units[s], units[s, best])


@bounded
@given(case=segments())
def test_weighted_equals_the_loop(case):
    units, scores, p = case
    merged = merge(units, scores, p, reduce="weighted")
    for s in range(len(units)):
        expected = merge_loop(units[s], scores[s], p, "weighted")
        assert_merged_like_loop(merged.units[s], merged.kept[s], units[s], expected)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@bounded
@given(case=segments())
def test_survivors_are_exactly_the_top_scored(reduce, case):
    units, scores, p = case
    for row, kept in zip(scores.tolist(), merge(units, scores, p, reduce=reduce).kept.tolist(), strict=True):
        assert len(kept) == p
        assert kept == sorted(set(kept))
        for i in kept:
            for j in set(range(len(row))) - set(kept):
                assert row[i] > row[j] or (row[i] == row[j] and i < j)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(("n", "p"), [(2, 1), (40, 1), (40, 39), (40, 37), (40, 20), (40, 30)])
def test_edges_equal_the_loop(dtype, reduce, n, p):
    """One survivor; one unit dropped; fewer dropped than neighbours; 1 or 2 recyclers."""
    units = grid_units(2, n, 12, seed=n + p, dtype=dtype)
    scores = torch.rand(2, n, generator=torch.Generator().manual_seed(p))
    merged = merge(units, scores, p, reduce=reduce)
    assert merged.units.shape == (2, p, 12)
    assert merged.kept.shape == (2, p)
    for s in range(2):
        expected = merge_loop(units[s], scores[s], p, reduce)
        assert_merged_like_loop(merged.units[s], merged.kept[s], units[s], expected)


def test_recycle_by_hand():
    # The second unit scores lowest of the two that stay, so it recycles the two that go.
    units = torch.tensor([[[7.0, 7.0], [2.0, 0.0], [2.0, 1.0], [0.0, 4.0]]])
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    merged = merge(units, scores, 2)
    a, b = math.exp(4 / math.sqrt(2)), math.exp(0)
    sum_of_dropped = [(a * 2 + b * 0) / (a + b), (a * 1 + b * 4) / (a + b)]
    expected = [[7.0, 7.0], [(2 + sum_of_dropped[0]) / 2, (0 + sum_of_dropped[1]) / 2]]
    assert merged.kept.tolist() == [[0, 1]]
    torch.testing.assert_close(merged.units, torch.tensor([expected]))


def test_weighted_by_hand():
    units = torch.tensor([[[60.0], [5.0], [6.0], [600.0]]])
    scores = torch.tensor([[1.0, 9.0, 3.0, 2.0]])
    # Third, fourth and first unit, in falling score, weigh 1/6, 2/6 and 3/6, at the place of the third.
    merged = merge(units, scores, 2, reduce="weighted")
    assert merged.kept.tolist() == [[1, 2]]
    torch.testing.assert_close(merged.units, torch.tensor([[[5.0], [1.0 + 200.0 + 30.0]]]))


def test_all_survivors_recycle_when_the_share_is_large():
    units, scores = grid_units(1, 12, 8, seed=0), torch.arange(12.0)[None]
    merged = merge(units, scores, 6, recycle=1.0)
    expected = merge_loop(units[0], scores[0], 6, "recycle", recycle=1.0)
    assert expected[2] == set(range(6, 12))
    assert_merged_like_loop(merged.units[0], merged.kept[0], units[0], expected)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_constant_scores_keep_the_first(reduce):
    # More units than any sort network's small-size path, where an unstable sort would show.
    units, scores = grid_units(2, 500, 3, seed=1), torch.full((2, 500), 1 / 500)
    merged = merge(units, scores, 300, reduce=reduce)
    assert merged.kept.tolist() == [list(range(300))] * 2
    for s in range(2):
        expected = merge_loop(units[s], scores[s], 300, reduce)
        assert_merged_like_loop(merged.units[s], merged.kept[s], units[s], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduce", ["recycle", "drop", "weighted"])
def test_informative_units_pass_through_untouched(dtype, reduce):
    """Numbers that fp32 could not hold, signed zeros, infinities and NaN included."""
    units = normal_units(1, 30, 6, seed=2, dtype=dtype)
    scores = torch.rand(1, 30, generator=torch.Generator().manual_seed(3))
    best = int(scores.argmax())
    units[0, best] = torch.tensor([-0.0, 0.0, math.inf, -math.inf, math.nan, torch.finfo(dtype).tiny / 2]).to(
        dtype
    )
    before, scores_before = units.clone(), scores.clone()
    merged = merge(units, scores, 20, reduce=reduce)
    unchanged = sorted(ranked(scores[0])[:19])
    at = [merged.kept[0].tolist().index(i) for i in unchanged]
    assert_same_bits(merged.units[0, at], before[0, unchanged])
    assert_same_bits(units, before)
    assert_same_bits(scores, scores_before)


def test_fp16_similarities_do_not_overflow():
    units = 32 * grid_units(1, 16, 64, seed=4, dtype=torch.float16) * 4
    scores = torch.rand(1, 16, generator=torch.Generator().manual_seed(5))
    # A redundant unit that is a copy of the recycler is what it recycles: nothing changes.
    order = ranked(scores[0])
    units[0, order[15]] = units[0, order[7]]
    assert dot(units[0, order[7]].tolist(), units[0, order[7]].tolist()) > torch.finfo(torch.float16).max
    merged = merge(units, scores, 8)
    assert_same_bits(merged.units[0], units[0, sorted(order[:8])])


@pytest.mark.parametrize("g", [1, 4])
def test_a_group_is_similar_as_its_tokens_are_together(g):
    """Similarity of two groups: the sum over their tokens, over the root of the width of all of them."""
    n, d, p = 7, 3, 5
    tokens = grid_units(n * g, d, seed=6)
    scores = unit_scores(torch.rand(n * g, generator=torch.Generator().manual_seed(7)), g)
    merged = merge(tokens.view(1, n, g * d), scores[None], p)
    order, x = ranked(scores), tokens.view(n, g, d).tolist()
    j, dropped = order[p - 1], order[p:]
    similar = [sum(dot(a, b) for a, b in zip(x[j], x[i], strict=True)) for i in dropped]
    weights = softmax([s / math.sqrt(g * d) for s in similar])
    at = merged.kept[0].tolist().index(j)
    for t, token in enumerate(merged.units[0, at].view(g, d).tolist()):
        for k in range(d):
            taken = sum(w * x[i][t][k] for w, i in zip(weights, dropped, strict=True))
            assert token[k] == pytest.approx((x[j][t][k] + taken) / 2, abs=1e-5)


@pytest.mark.parametrize("default", [torch.float16, torch.float64])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_default_dtype_changes_nothing(default, reduce):
    units, scores = grid_units(2, 20, 8, seed=8, dtype=torch.bfloat16), torch.linspace(1, 0, 40).view(2, 20)
    plain = merge(units, scores, 11, reduce=reduce)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        again = merge(units, scores, 11, reduce=reduce)
    finally:
        torch.set_default_dtype(before)
    assert_same_bits(again.units, plain.units)
    assert torch.equal(again.kept, plain.kept)


@pytest.mark.parametrize(
    ("units_shape", "scores_shape"),
    [((4, 3), (4,)), ((1, 4, 3), (4,)), ((1, 4, 3), (1, 3)), ((2, 4, 3), (1, 4)), ((1, 1, 4, 3), (1, 1, 4))],
)
def test_merge_refuses_shapes_that_do_not_fit(units_shape, scores_shape):
    with pytest.raises(ValueError, match="units must be"):
        merge(torch.zeros(units_shape), torch.zeros(scores_shape), 2)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("p", [-1, 0, 4, 5])
def test_merge_refuses_a_count_that_is_no_reduction(reduce, p):
    with pytest.raises(ValueError, match="p="):
        merge(torch.zeros(1, 4, 3), torch.zeros(1, 4), p, reduce=reduce)


@pytest.mark.parametrize("reduce", ["", "mean", "Recycle"])
def test_merge_refuses_an_unknown_reduction(reduce):
    with pytest.raises(ValueError, match="recycle, drop, weighted"):
        merge(torch.zeros(1, 4, 3), torch.zeros(1, 4), 2, reduce=reduce)
