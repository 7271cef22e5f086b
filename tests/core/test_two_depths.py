"""Survivors that clusters select, against the loop, and at ties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from illava.ops.two_depths import two_depths_ranking
from tests.core.cases import bounded, normal_units
from tests.core.loops import ranked
from tests.core.two_depths_loop import clusters, two_depths_loop


def checked(units: Tensor, earlier: Tensor, ranking: Tensor, first: int, p: int) -> list[list[int]]:
    """The selected units of each segment, which are those of the loop."""
    found = two_depths_ranking(units, earlier, ranking, first, p)
    assert found.dtype == torch.float32
    out = []
    for rows, before, scores, got in zip(units, earlier, ranking, found, strict=True):
        assert len(set(got.tolist())) == len(got)
        order = got.argsort(descending=True, stable=True).tolist()
        by_score = ranked(scores)
        selected, rest = order[:first], order[first:p]
        assert selected == by_score[:first]
        chosen, places = two_depths_loop(rows.double().tolist(), before.double().tolist(), selected, p)
        assert sum(places) == p - first
        assert sorted(rest) == chosen
        # Among themselves in the order of the ranking, as are those that are dropped.
        assert rest == [i for i in by_score if i in chosen]
        assert order[p:] == [i for i in by_score if i not in order[:p]]
        out.append(sorted(order[:p]))
    return out


@settings(bounded, max_examples=60)
@given(n=st.integers(3, 24), data=st.data(), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_the_selection_equals_the_loop(n, data, dtype):
    p = data.draw(st.integers(2, n - 1))
    first = data.draw(st.integers(1, p - 1))
    units = normal_units(3, n, 5, seed=n + 1000 * p, dtype=getattr(torch, dtype))
    earlier = normal_units(3, n, 4, seed=n + 1000 * first + 7, dtype=getattr(torch, dtype))
    scores = torch.rand(3, n, generator=torch.Generator().manual_seed(n))
    checked(units, earlier, scores.round(decimals=1), first, p)


def test_of_copies_the_earlier_ones_are_selected():
    for rows in (torch.ones(1, 9, 3), torch.zeros(1, 9, 3)):
        kept = checked(rows, rows, torch.zeros(1, 9), 2, 5)
        assert kept == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("first", [1, 3])
def test_copies_of_a_few_directions(first):
    generator = torch.Generator().manual_seed(first)
    palette = torch.randn(3, 6, generator=generator)
    units = palette[torch.randint(0, 3, (4, 17), generator=generator)]
    earlier = palette[torch.randint(0, 2, (4, 17), generator=generator)]
    checked(units, earlier, torch.rand(4, 17, generator=generator).round(decimals=1), first, 9)


def test_clusters_get_places_by_their_size():
    """Four directions with 12, 6, 3 and 3 units: 8 places are 4, 2, 1 and 1."""
    axes = torch.eye(4)
    noise = 0.05 * torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    groups = [0] * 12 + [1] * 6 + [2] * 3 + [3] * 3
    units = torch.cat([axes[groups] + noise, torch.ones(1, 4)])
    scores = torch.tensor([0.0] * 24 + [1.0])
    label = clusters(units[:24].double().tolist())
    assert len(set(zip(groups, label, strict=True))) == 4
    (kept,) = checked(units[None], units[None], scores[None], 1, 9)
    assert [sum(groups[i] == g for i in kept[:-1]) for g in range(4)] == [4, 2, 1, 1]
    assert kept[-1] == 24


def test_what_stands_out_halfway_alone_is_selected():
    flat = torch.ones(1, 10, 4)
    odd = flat.clone()
    odd[0, 7, 0] = 2
    scores = torch.tensor([[1.0] + [0.0] * 9])
    assert checked(flat, flat, scores, 1, 2) == [[0, 1]]
    assert checked(flat, odd, scores, 1, 2) == [[0, 7]]


def test_no_gradient_flows_through_the_selection():
    units = torch.randn(1, 8, 3, requires_grad=True)
    assert not two_depths_ranking(units, units, torch.rand(1, 8), 2, 4).requires_grad
