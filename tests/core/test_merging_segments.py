"""merge_segments: several segments of any size are merged as if each were alone."""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES, assert_merged_like_loop, assert_same_bits, bounded, grid_units, ratios, score_values
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loops import merge_loop

from illava.merging import REDUCTIONS, keep_count, merge_segments


@settings(bounded, max_examples=150)
@given(data=st.data(), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), keep=ratios)
def test_each_segment_is_merged_as_if_alone(data, lengths, keep):
    total = sum(lengths)
    units = grid_units(
        total, data.draw(st.integers(1, 12)), seed=data.draw(st.integers(0, 2**31)),
        dtype=data.draw(st.sampled_from(DTYPES)),
    )  # fmt: skip
    scores = torch.tensor(data.draw(st.lists(score_values, min_size=total, max_size=total)))
    reduce = data.draw(st.sampled_from(REDUCTIONS))
    recycle, neighbours = data.draw(st.sampled_from([0.05, 0.5])), data.draw(st.sampled_from([1, 5]))
    merged = merge_segments(
        units, scores, lengths, keep, reduce=reduce, recycle=recycle, neighbours=neighbours
    )
    counts = [keep_count(n, keep) for n in lengths]
    if counts == lengths:
        assert merged is None
        return
    assert merged.lengths == tuple(counts)
    assert merged.units.shape == (sum(counts), units.shape[1]) and merged.kept.shape == (sum(counts),)
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


@bounded
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), keep=ratios)
@example(lengths=[4, 7, 1], keep=1.0)
@example(lengths=[1, 1, 1], keep=0.01)
@example(lengths=[10, 10], keep=0.96)
@example(lengths=[10, 20], keep=0.96)
def test_none_exactly_when_nothing_is_dropped(lengths, keep):
    units, scores = grid_units(sum(lengths), 2, seed=0), torch.zeros(sum(lengths))
    nothing_goes = all(keep_count(n, keep) == n for n in lengths)
    assert (merge_segments(units, scores, lengths, keep) is None) == nothing_goes


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_single_units_stay_between_segments_that_shrink(reduce):
    lengths = [1, 6, 1, 4, 6, 1]
    units, scores = grid_units(19, 4, seed=1), torch.linspace(0, 1, 19)
    merged = merge_segments(units, scores, lengths, 0.5, reduce=reduce)
    assert merged.lengths == (1, 3, 1, 2, 3, 1)
    assert merged.kept.tolist() == [0, 4, 5, 6, 7, 10, 11, 15, 16, 17, 18]
    assert_same_bits(merged.units[[0, 4, 10]], units[[0, 7, 18]])


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_scores_are_compared_within_a_segment_only(reduce):
    lengths = (6, 4, 6)
    units = grid_units(16, 4, seed=2)
    scores = torch.randint(0, 8, (16,), generator=torch.Generator().manual_seed(3)).float()
    lifted = scores + torch.tensor([0.0] * 6 + [100.0] * 4 + [-100.0] * 6)
    plain = merge_segments(units, scores, lengths, 0.5, reduce=reduce)
    again = merge_segments(units, lifted, lengths, 0.5, reduce=reduce)
    assert torch.equal(plain.kept, again.kept)
    assert_same_bits(plain.units, again.units)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_segments_leave_the_input_alone(reduce):
    units, scores = grid_units(12, 4, seed=4), torch.linspace(0, 1, 12)
    before, scores_before = units.clone(), scores.clone()
    merge_segments(units, scores, (7, 5), 0.5, reduce=reduce)
    assert_same_bits(units, before)
    assert_same_bits(scores, scores_before)


@pytest.mark.parametrize(
    ("units_shape", "scores_shape", "lengths", "keep"),
    [
        ((1, 6, 2), (1, 6), (6,), 0.5),  # a batch: merge() takes those
        ((6, 2), (5,), (6,), 0.5),
        ((6, 2), (6, 1), (6,), 0.5),
        ((6, 2), (6,), (3, 2), 0.5),
        ((6, 2), (6,), (3, 4), 0.5),
        ((6, 2), (6,), (3, 2), 1.0),  # wrong even where nothing would be dropped
        ((6, 2), (6,), (6, 0), 0.5),
        ((6, 2), (6,), (7, -1), 0.5),
        ((6, 2), (6,), (6,), 0.0),
        ((6, 2), (6,), (6,), 1.5),
    ],
)
def test_segments_refuse_what_does_not_fit(units_shape, scores_shape, lengths, keep):
    with pytest.raises(ValueError):
        merge_segments(torch.zeros(units_shape), torch.zeros(scores_shape), lengths, keep)


def test_segments_refuse_an_unknown_reduction():
    with pytest.raises(ValueError, match="reduce"):
        merge_segments(torch.zeros(6, 2), torch.zeros(6), (6,), 0.5, reduce="mean")
