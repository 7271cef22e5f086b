"""The greedy coverage of a segment, against the loop, against the optimum, and at its ties."""

from __future__ import annotations

from itertools import combinations
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from illava.ops import coverage, selection
from illava.ops.coverage import coverage_ranking
from tests.core.cases import bounded, normal_units
from tests.core.loops import alike, coverage_loop


def selected(rank: Tensor, p: int) -> list[int]:
    return rank.argsort(descending=True, stable=True)[:p].tolist()


@settings(bounded, max_examples=100)
@given(
    n=st.integers(1, 20), data=st.data(), sized=st.booleans(), dtype=st.sampled_from(["float32", "bfloat16"])
)
def test_the_ranking_equals_the_loop(n, data, sized, dtype):
    p = data.draw(st.integers(1, n))
    units = normal_units(2, n, 5, seed=n + 1000 * p, dtype=getattr(torch, dtype))
    generator = torch.Generator().manual_seed(n)
    scores = torch.rand(2, n, generator=generator)
    sizes = torch.randint(1, 9, (2, n), generator=generator).float() if sized else None
    rank = coverage_ranking(units, scores, p, sizes)
    assert rank.dtype == torch.float32
    for segment in range(2):
        weights = None if sizes is None else sizes[segment].tolist()
        want = coverage_loop(units[segment].double().tolist(), scores[segment].double().tolist(), p, weights)
        assert selected(rank[segment], p) == want
        assert sorted(rank[segment].tolist(), reverse=True) == [*range(n, n - p, -1), *[0] * (n - p)]


@pytest.mark.parametrize(("most", "covered"), [(12, [*range(12)]), (6, [0, 4, 8]), (2, [0])])
def test_in_long_segments_evenly_spaced_units_are_covered(most, covered):
    units = normal_units(1, 12, 5, seed=3, dtype=torch.float32)
    with mock.patch.object(selection, "MAX_PAIRWISE_UNITS", most):
        rank = coverage_ranking(units, torch.ones(1, 12), 7)
    assert selected(rank[0], 7) == coverage_loop(units[0].tolist(), [1.0] * 12, 7, covered=covered)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_coverage_is_near_the_optimum(seed):
    """Not below 1 - 1/e of it, as for every monotone submodular function (Nemhauser et al. 1978)."""
    units = normal_units(1, 9, 4, seed=seed, dtype=torch.float32)
    rows = units[0].tolist()

    def covered(kept):
        return sum(max(0.0, *(alike(row, rows[i], "cosine") for i in kept)) for row in rows)

    best = max(covered(kept) for kept in combinations(range(9), 3))
    got = covered(selected(coverage_ranking(units, torch.ones(1, 9), 3)[0], 3))
    assert (1 - 1 / torch.e) * best <= got <= best + 1e-6
    assert got > 0.9 * best, "in practice much nearer"


def test_of_equal_units_the_earlier_is_selected():
    assert selected(coverage_ranking(torch.ones(1, 6, 3), torch.ones(1, 6), 4)[0], 4) == [0, 1, 2, 3]
    copies = torch.eye(4).repeat_interleave(3, 0)[None]
    assert selected(coverage_ranking(copies, torch.ones(1, 12), 12)[0], 12) == [
        0,
        3,
        6,
        9,
        1,
        2,
        4,
        5,
        7,
        8,
        10,
        11,
    ]
    # The third of equal units has the highest score.
    scores = torch.tensor([[1.0, 1, 2, 1]])
    assert selected(coverage_ranking(torch.ones(1, 4, 3), scores, 4)[0], 4) == [2, 0, 1, 3]


def test_large_merged_units_are_covered_first():
    units = torch.eye(4)[None]
    assert selected(coverage_ranking(units, torch.ones(1, 4), 4, torch.tensor([[1.0, 3, 2, 9]]))[0], 4) == [
        3,
        1,
        2,
        0,
    ]


def test_all_rows_at_once_give_the_same_bits():
    """As on devices for which the host does not look at which rows have changed."""
    units = normal_units(3, 60, 8, seed=1, dtype=torch.float32)
    scores, sizes = torch.rand(3, 60), torch.randint(1, 50, (3, 60)).float()
    want = coverage_ranking(units, scores, 25, sizes)
    with mock.patch.object(coverage, "_increase", coverage._weighted_sum):
        assert torch.equal(coverage_ranking(units, scores, 25, sizes), want)


def test_a_batch_is_ranked_as_its_segments_are():
    units = normal_units(4, 40, 6, seed=2, dtype=torch.bfloat16)
    scores = torch.rand(4, 40)
    alone = [coverage_ranking(units[i : i + 1], scores[i : i + 1], 15) for i in range(4)]
    assert torch.equal(coverage_ranking(units, scores, 15), torch.cat(alone))


def test_not_a_number_neither_fails_nor_repeats_a_unit():
    units = normal_units(1, 8, 4, seed=0, dtype=torch.float32)
    units[0, 3] = torch.nan
    assert sorted(selected(coverage_ranking(units, torch.ones(1, 8), 8)[0], 8)) == [*range(8)]
