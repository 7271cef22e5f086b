"""ToMe: one merge against loops, how many go where, and whole encoders against a recomputation of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from illava.methods.steps import Units
from illava.methods.tome import ToMeStep, merge_similar, merged_count
from illava.ops.merging import keep_count
from tests.core.cases import assert_same_bits, bounded, normal_units
from tests.flash import kernels
from tests.methods.tome_whole import counts_loop, merge_loop

__all__ = ["kernels"]


@bounded
@given(n=st.integers(0, 200), keep=st.floats(0.01, 1), steps=st.integers(1, 12))
def test_counts_equal_the_loop(n, keep, steps):
    target = keep_count(n, keep) if n else 0
    counts = [merged_count(n, target, i + 1, steps) for i in range(steps)]
    assert counts == counts_loop(n, target, steps)
    left = [n, *counts]
    gone = [a - b for a, b in zip(left, counts, strict=False)]
    assert all(2 * going <= before for going, before in zip(gone, left, strict=False))
    # As few blocks as possible go without their share: the last.
    assert gone == sorted(gone, reverse=True)
    fewest = n
    for _ in range(steps):
        fewest -= fewest // 2
    assert counts[-1] == max(target, fewest)


def test_counts_by_hand():
    assert [merged_count(576, 192, i, 24) for i in (1, 12, 24)] == [560, 384, 192]
    assert [merged_count(36, 12, i + 1, 4) for i in range(4)] == [30, 24, 18, 12]
    assert [merged_count(36, 13, i + 1, 4) for i in range(4)] == [30, 24, 18, 13]
    # Half of them at most: 10, 5, 3 is all that three blocks can do.
    assert [merged_count(20, 1, i + 1, 3) for i in range(3)] == [10, 5, 3]
    assert merged_count(1, 1, 1, 3) == 1
    assert merged_count(2, 1, 1, 1) == 1


def assert_like_loop(units: Tensor, keys: Tensor, sizes: Tensor, p: int) -> None:
    merged = merge_similar(p, units, keys, sizes=sizes)
    assert merged.units.dtype == units.dtype
    assert merged.kept.dtype == torch.int64
    assert merged.sizes.dtype == torch.float32
    for s in range(len(units)):
        expected = merge_loop(units[s].tolist(), keys[s].tolist(), sizes[s].tolist(), p)
        assert merged.kept[s].tolist() == expected.kept
        assert merged.sizes[s].tolist() == expected.sizes
        values = torch.tensor(expected.values, dtype=torch.float64)
        close = 1e-5 if units.dtype in (torch.float32, torch.float64) else 2e-2
        torch.testing.assert_close(merged.units[s].double(), values, atol=close, rtol=close)


@st.composite
def segments(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int]:
    count, n, width = draw(st.integers(1, 3)), draw(st.integers(2, 16)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    units = normal_units(count, n, width, seed=seed, dtype=dtype)
    # Signs alone: of length 2 in fp32 as well, so that cosines are exact and often the same.
    keys = torch.randint(0, 2, (count, n, 4), generator=generator) * 2.0 - 1
    if draw(st.booleans()):
        keys = normal_units(count, n, 4, seed=seed + 1, dtype=torch.float32)
    sizes = torch.randint(1, 5, (count, n), generator=generator).float()
    return units, keys, sizes, draw(st.integers(n - n // 2, n - 1))


@bounded
@given(case=segments())
def test_equals_the_loop(case):
    units, keys, sizes, p = case
    assert_like_loop(units, keys, sizes, p)


@pytest.mark.parametrize(("n", "p"), [(2, 1), (3, 2), (40, 20), (41, 21), (41, 40), (40, 33)])
def test_edges_equal_the_loop(n, p):
    units = normal_units(2, n, 6, seed=n, dtype=torch.float32)
    keys = normal_units(2, n, 5, seed=p, dtype=torch.float32)
    assert_like_loop(units, keys, torch.ones(2, n), p)
    # All alike: every even unit goes into the first odd one, the first of them first.
    assert_like_loop(units, torch.ones(2, n, 4), torch.ones(2, n), p)


@bounded
@given(case=segments())
def test_nothing_is_lost(case):
    units, keys, sizes, p = case
    merged = merge_similar(p, units.double(), keys, sizes=sizes)
    assert merged.kept.shape == (len(units), p)
    assert bool((merged.kept.diff(dim=1) > 0).all())
    # The first unit is the first source of whatever it goes into.
    assert bool((merged.kept[:, 0] == 0).all())
    assert torch.equal(merged.sizes.sum(1), sizes.sum(1))
    before = (units.double() * sizes[..., None]).sum(1)
    after = (merged.units * merged.sizes[..., None]).sum(1)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


@bounded
@given(case=segments())
def test_who_stays_alone_keeps_every_bit(case):
    units, keys, sizes, p = case
    merged = merge_similar(p, units, keys, sizes=sizes)
    for s in range(len(units)):
        for values, place, size in zip(
            merged.units[s], merged.kept[s].tolist(), merged.sizes[s], strict=True
        ):
            if size == sizes[s, place]:
                assert_same_bits(values, units[s, place])


@bounded
@given(case=segments(), factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_length_of_keys_does_not_matter(case, factor):
    units, keys, sizes, p = case
    lengths = torch.tensor([1.0, factor]).repeat(keys.shape[1])[: keys.shape[1], None]
    one, other = (merge_similar(p, units, k, sizes=sizes) for k in (keys, keys * lengths))
    assert torch.equal(one.kept, other.kept)
    assert torch.equal(one.sizes, other.sizes)


def test_by_hand():
    units = torch.tensor([[[0.0], [10.0], [20.0], [30.0], [40.0]]])
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [2.0, 0.1], [9.0, 1.0]]])
    sizes = torch.tensor([[1.0, 1.0, 3.0, 1.0, 1.0]])
    # 2 is just like 1, and 0 hardly less like 3 than 4 is; 1 has the size of one, 2 that of three.
    merged = merge_similar(4, units, keys, sizes=sizes)
    assert merged.kept.tolist() == [[0, 1, 3, 4]]
    assert merged.units.flatten().tolist() == [0, (10 + 60) / 4, 30, 40]
    assert merged.sizes.tolist() == [[1, 4, 1, 1]]
    merged = merge_similar(3, units, keys, sizes=sizes)
    assert merged.kept.tolist() == [[0, 1, 4]]
    assert merged.units.flatten().tolist() == [15, 17.5, 40]


def test_segments_of_any_size_and_sizes_go_along():
    lengths, full = (9, 1, 5, 5, 0, 1, 9), (18, 1, 9, 9, 0, 2, 18)
    vectors = normal_units(sum(lengths), 6, seed=3, dtype=torch.float32)
    seen = normal_units(sum(lengths), 2, 3, seed=4, dtype=torch.float32)
    sizes = torch.randint(1, 4, (sum(lengths),), generator=torch.Generator().manual_seed(5)).float()
    # The second of two steps: 18 -> 9 -> 5 and 9 -> 5 -> 3, since no more than half can go at one.
    merged = ToMeStep(0.25, 2, 2).reduce(Units(vectors, seen, lengths, full, sizes))
    assert merged.lengths == (5, 1, 3, 3, 0, 1, 5)
    start, expected, weights = 0, [], []
    for n, p in zip(lengths, merged.lengths, strict=True):
        part = slice(start, start + n)
        if n == p:
            expected += range(start, start + n)
            weights += sizes[part].tolist()
        else:
            step = merge_loop(vectors[part].tolist(), seen[part].flatten(1).tolist(), sizes[part].tolist(), p)
            expected += [start + i for i in step.kept]
            weights += step.sizes
        start += n
    assert merged.kept.tolist() == expected
    assert merged.sizes.tolist() == weights
