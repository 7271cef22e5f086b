"""Folding, and the choices past the paper, against loops and against what they must conserve."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illava.ops import scoring, selection
from illava.ops.merging import merge, merge_diverse
from illava.ops.scoring import rarity, row_scores
from illava.ops.selection import diverse_ranking
from tests.core.cases import DTYPES, assert_same_bits, bounded, normal_units
from tests.core.loops import alike, attention_row, diverse_loop, merge_loop, ranked


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("reduce", ["fold", "recycle"])
@pytest.mark.parametrize(("n", "p"), [(2, 1), (9, 1), (9, 4), (9, 8), (40, 13)])
def test_similarities_equal_the_loop(n, p, reduce, similarity):
    units = normal_units(2, n, 6, seed=n, dtype=torch.float32)
    units[0] *= torch.linspace(0.1, 5, n)[:, None]  # lengths on which the two differ
    scores = torch.rand(2, n, generator=torch.Generator().manual_seed(p))
    merged = merge(units, scores, p, reduce=reduce, recycle=0.4, similarity=similarity)
    for segment in range(2):
        rows, kept, _ = merge_loop(units[segment], scores[segment], p, reduce, 0.4, 5, similarity)
        assert merged.kept[segment].tolist() == kept
        torch.testing.assert_close(merged.units[segment].double(), rows, rtol=1e-5, atol=1e-5)


@settings(bounded, max_examples=150)
@given(n=st.integers(2, 30), data=st.data(), similarity=st.sampled_from(["dot", "cosine"]))
def test_folding_loses_nothing(n, data, similarity):
    """Sizes add up to all units ever, and size-weighted vectors to the sum of all."""
    p = data.draw(st.integers(1, n - 1))
    units = normal_units(3, n, 4, seed=n * 100 + p, dtype=torch.float32)
    sizes = torch.randint(1, 9, (3, n), generator=torch.Generator().manual_seed(n)).float()
    scores = torch.rand(3, n, generator=torch.Generator().manual_seed(p))
    merged = merge(units, scores, p, reduce="fold", similarity=similarity, sizes=sizes)
    assert torch.equal(merged.sizes.sum(1), sizes.sum(1))
    torch.testing.assert_close(
        (merged.units * merged.sizes[..., None]).sum(1), (units * sizes[..., None]).sum(1), rtol=0, atol=1e-4
    )
    for segment in range(3):
        assert merged.kept[segment].tolist() == sorted(ranked(scores[segment])[:p])


@pytest.mark.parametrize("dtype", DTYPES)
def test_who_takes_in_nobody_is_untouched(dtype):
    units = torch.tensor([[[1.0, 0], [0.99, 0.1], [0, 1], [0, -1]]], dtype=dtype)
    merged = merge(units, torch.tensor([[4.0, 1, 3, 2]]), 3, reduce="fold", similarity="cosine")
    assert merged.kept.tolist() == [[0, 2, 3]]
    assert_same_bits(merged.units[0, 1:], units[0, 2:])
    assert not torch.equal(merged.units[0, 0], units[0, 0])


@pytest.mark.parametrize("reduce", ["recycle", "drop"])
def test_sizes_of_survivors_come_back(reduce):
    sizes = torch.arange(1.0, 11).expand(2, 10)
    merged = merge(
        normal_units(2, 10, 4, seed=0, dtype=torch.float32), torch.rand(2, 10), 4, reduce=reduce, sizes=sizes
    )
    assert torch.equal(merged.sizes, sizes.gather(1, merged.kept))


@settings(bounded, max_examples=60)
@given(n=st.integers(1, 25), seed=st.integers(0, 99))
def test_rarity_equals_the_loop(n, seed):
    units = normal_units(2, n, 5, seed=seed, dtype=torch.float32)
    got = rarity(units)
    for segment in range(2):
        rows = units[segment].tolist()
        want = [1 - sum(alike(a, b, "cosine") for b in rows) / n for a in rows]
        assert got[segment].tolist() == pytest.approx(want, abs=1e-5)
    assert rarity(torch.ones(1, n, 3)).abs().max() < 1e-6
    torch.testing.assert_close(rarity(units * 7), got, rtol=0, atol=1e-5)


@settings(bounded, max_examples=100)
@given(n=st.integers(1, 20), data=st.data(), paired=st.booleans())
def test_diverse_ranking_equals_the_loop(n, data, paired):
    p = data.draw(st.integers(1, n))
    units = normal_units(2, n, 5, seed=n + 1000 * p, dtype=torch.float32)
    scores = torch.rand(2, n, generator=torch.Generator().manual_seed(n))
    with mock.patch.object(selection, "MAX_PAIRWISE_UNITS", 4096 if paired else 0):
        rank = diverse_ranking(units, scores, p)
    for segment in range(2):
        want = diverse_loop(units[segment].double().tolist(), scores[segment].double().tolist(), p)
        assert rank[segment].argsort(descending=True, stable=True)[:p].tolist() == want
        assert sorted(rank[segment].tolist(), reverse=True) == [*range(n, n - p, -1), *[0] * (n - p)]


def test_copies_are_ranked_last():
    units = torch.eye(4).repeat_interleave(3, 0)[None]
    rank = diverse_ranking(units, torch.ones(1, 12), 12)
    first = rank[0].argsort(descending=True)[:4]
    assert sorted((first // 3).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("way", ["at once", "in chunks"])
@pytest.mark.parametrize("kind", ["padding", "boolean", "additive"])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)])
def test_row_scores_equal_the_loop(heads, kind, way, monkeypatch):
    if way == "in chunks":
        monkeypatch.setattr(scoring, "CHUNK_BYTES", 4 * 3 * heads[0] * 8 * 2)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, heads[0], 5, 4, generator=generator)
    key = torch.randn(3, heads[1], 8, 4, generator=generator)
    rows = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]).bool()
    padding = torch.ones(3, 8, dtype=torch.bool)
    padding[1, :3] = False
    mask = padding
    if kind != "padding":
        seen = torch.arange(8) <= torch.arange(5)[:, None] + 3
        mask = (seen & padding[:, None])[:, None]
        if kind == "additive":
            mask = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    got = row_scores(query, key, 0.5, rows, mask)
    for b in range(3):
        asking = rows[b].nonzero().flatten().tolist()
        want = [0.0] * 8
        for row in asking:
            bias = [0.0 if padding[b, j] and j <= row + 3 else -math.inf for j in range(8)]
            for head in range(heads[0]):
                weights = attention_row(query[b, head, row], key[b, head * heads[1] // heads[0]], 0.5, bias)
                want = [w + weight / len(asking) / heads[0] for w, weight in zip(want, weights, strict=True)]
        assert got[b].tolist() == pytest.approx(want, abs=1e-6)


@settings(bounded, max_examples=100)
@given(n=st.integers(2, 40), data=st.data())
def test_a_diverse_step_on_a_cpu_is_its_ranking_and_a_fold(n, data):
    """Distances are computed once for both; copies and units without a score among them."""
    p = data.draw(st.integers(1, n - 1))
    units = normal_units(3, n, 5, seed=n * 100 + p, dtype=torch.float32)
    units[:, 1::4] = units[:, :1]
    generator = torch.Generator().manual_seed(p)
    scores = torch.rand(3, n, generator=generator) * (torch.rand(3, n, generator=generator) > 0.2)
    sizes = torch.randint(1, 5, (3, n), generator=generator).float()
    options = {"reduce": "fold", "similarity": "cosine", "sizes": sizes}
    found = merge_diverse(units, scores, p, **options)
    want = merge(units, diverse_ranking(units, scores, p), p, **options)
    assert torch.equal(found.kept, want.kept)
    assert torch.equal(found.sizes, want.sizes)
    torch.testing.assert_close(found.units, want.units)
    with mock.patch.object(selection, "MAX_PAIRWISE_UNITS", 1):
        apart = merge_diverse(units, scores, p, **options)
    assert torch.equal(found.kept, apart.kept)
    assert torch.equal(found.sizes, apart.sizes)


def test_gradients_of_a_diverse_step_reach_all_units():
    units = normal_units(2, 12, 5, seed=1, dtype=torch.float32).requires_grad_()
    merge_diverse(units, torch.rand(2, 12), 4, reduce="fold", similarity="cosine").units.sum().backward()
    assert (units.grad.abs().sum(-1) > 0).all()
