"""merge_segments: several segments of any size are merged as if each were alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illava.ops.merging import REDUCTIONS, keep_count, merge_segments
from tests.core.cases import (
    DTYPES,
    assert_merged_like_loop,
    assert_same_bits,
    bounded,
    grid_units,
    ratios,
    score_values,
)
from tests.core.loops import merge_loop


def assert_each_like_loop(merged, units, scores, lengths, counts, reduce, recycle=0.05, neighbours=5):
    assert merged.lengths == tuple(counts)
    assert merged.units.shape == (sum(counts), units.shape[1])
    assert merged.kept.shape == (sum(counts),)
    assert merged.kept.dtype == torch.int64
    start = done = 0
    for n, p in zip(lengths, counts, strict=True):
        here, out = slice(start, start + n), slice(done, done + p)
        if p == n:
            assert merged.kept[out].tolist() == list(range(start, start + n))
            assert_same_bits(merged.units[out], units[here])
        else:
            expected = merge_loop(units[here], scores[here], p, reduce, recycle, neighbours)
            assert_merged_like_loop(merged.units[out], merged.kept[out] - start, units[here], expected)
        start, done = start + n, done + p


@st.composite
def lengths_and_counts(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """By one keep ratio, or, in half of the cases, a free number of survivors for each segment."""
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6))
    if draw(st.booleans()):
        keep = draw(ratios)
        return lengths, [keep_count(n, keep) if n else 0 for n in lengths]
    return lengths, [draw(st.integers(1, n)) if n else 0 for n in lengths]


@settings(bounded, max_examples=150)
@given(data=st.data(), sizes=lengths_and_counts())
def test_each_segment_is_merged_as_if_alone(data, sizes):
    lengths, counts = sizes
    total = sum(lengths)
    width, seed = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 2**31))
    units = grid_units(total, width, seed=seed, dtype=data.draw(st.sampled_from(DTYPES)))
    scores = torch.tensor(data.draw(st.lists(score_values, min_size=total, max_size=total)))
    reduce = data.draw(st.sampled_from(REDUCTIONS))
    recycle, neighbours = data.draw(st.sampled_from([0.05, 0.5])), data.draw(st.sampled_from([1, 5]))
    merged = merge_segments(
        units, scores, lengths, counts, reduce=reduce, recycle=recycle, neighbours=neighbours
    )
    if counts == lengths:
        assert merged is None
    else:
        assert_each_like_loop(merged, units, scores, lengths, counts, reduce, recycle, neighbours)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_segments_of_one_length_may_keep_different_counts(reduce):
    lengths, counts = [6, 6, 3, 6, 3], [2, 5, 3, 6, 1]
    units, scores = grid_units(24, 4, seed=5), torch.rand(24, generator=torch.Generator().manual_seed(6))
    merged = merge_segments(units, scores, lengths, counts, reduce=reduce)
    assert_each_like_loop(merged, units, scores, lengths, counts, reduce)


@pytest.mark.parametrize("lengths", [(4, 7, 1), (1, 1, 1), (0, 3), (5,), ()])
def test_none_when_nothing_is_dropped(lengths):
    total = sum(lengths)
    assert merge_segments(grid_units(total, 2, seed=0), torch.zeros(total), lengths, list(lengths)) is None


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_single_units_stay_between_segments_that_shrink(reduce):
    lengths = [1, 6, 1, 4, 6, 1]
    units, scores = grid_units(19, 4, seed=1), torch.linspace(0, 1, 19)
    merged = merge_segments(units, scores, lengths, [1, 3, 1, 2, 3, 1], reduce=reduce)
    assert merged.lengths == (1, 3, 1, 2, 3, 1)
    assert merged.kept.tolist() == [0, 4, 5, 6, 7, 10, 11, 15, 16, 17, 18]
    assert_same_bits(merged.units[[0, 4, 10]], units[[0, 7, 18]])


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_scores_are_compared_within_a_segment_only(reduce):
    lengths = (6, 4, 6)
    units = grid_units(16, 4, seed=2)
    scores = torch.randint(0, 8, (16,), generator=torch.Generator().manual_seed(3)).float()
    lifted = scores + torch.tensor([0.0] * 6 + [100.0] * 4 + [-100.0] * 6)
    plain = merge_segments(units, scores, lengths, (3, 2, 3), reduce=reduce)
    again = merge_segments(units, lifted, lengths, (3, 2, 3), reduce=reduce)
    assert torch.equal(plain.kept, again.kept)
    assert_same_bits(plain.units, again.units)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_segments_leave_the_input_alone(reduce):
    units, scores = grid_units(12, 4, seed=4), torch.linspace(0, 1, 12)
    before, scores_before = units.clone(), scores.clone()
    merge_segments(units, scores, (7, 5), (4, 2), reduce=reduce)
    assert_same_bits(units, before)
    assert_same_bits(scores, scores_before)


@pytest.mark.parametrize(
    ("units_shape", "scores_shape", "lengths", "counts"),
    [
        ((1, 6, 2), (1, 6), (6,), (3,)),  # a batch: merge() takes those
        ((6, 2), (5,), (6,), (3,)),
        ((6, 2), (6, 1), (6,), (3,)),
        ((6, 2), (6,), (3, 2), (1, 1)),
        ((6, 2), (6,), (3, 4), (1, 1)),
        ((6, 2), (6,), (3, 2), (3, 2)),  # wrong even where nothing would be dropped
        ((6, 2), (6,), (3, 3), (2,)),
        ((6, 2), (6,), (3, 3), (2, 2, 2)),
        ((6, 2), (6,), (3, 3), (2, 4)),
        ((6, 2), (6,), (3, 3), (2, 0)),
        ((6, 2), (6,), (3, 3), (2, -1)),
        ((6, 2), (6,), (6, 0), (3, 1)),
    ],
)
def test_segments_refuse_what_does_not_fit(units_shape, scores_shape, lengths, counts):
    with pytest.raises(ValueError):  # noqa: PT011
        merge_segments(torch.zeros(units_shape), torch.zeros(scores_shape), lengths, counts)


def test_segments_refuse_an_unknown_reduction():
    with pytest.raises(ValueError, match="reduce"):
        merge_segments(torch.zeros(6, 2), torch.zeros(6), (6,), (3,), reduce="mean")
