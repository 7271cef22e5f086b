"""PruMerge+: kept units that take in others, against a loop and by its properties. On models:
test_behind_encoder."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illava.methods.base import Method
from illava.methods.fastervlm import FasterVLMStep
from illava.methods.prumerge import PruMergePlus, PruMergePlusStep, absorb
from illava.methods.steps import EncoderAttention
from tests.core.cases import DTYPES, assert_same_bits, bounded, normal_units, ratios
from tests.methods.behind_encoder import Case, assert_like_loop, cases, reduced
from tests.methods.loops_behind_encoder import prumerge_loop


@settings(bounded, max_examples=200)
@given(
    case=cases(DTYPES, most=24),
    keep=ratios,
    top=st.sampled_from([0.01, 0.3, 0.5, 1.0]),
    neighbours=st.sampled_from([1, 2, 5, 32]),
)
def test_it_equals_the_loop(case, keep, top, neighbours):
    fields = {"top": top, "neighbours": neighbours}
    assert_like_loop(PruMergePlusStep(keep, **fields), case, keep, prumerge_loop, keyed=True, **fields)


@bounded
@given(case=cases((torch.float32,)), keep=ratios)
def test_the_best_unit_keeps_its_place(case, keep):
    merged = reduced(PruMergePlusStep(keep, 0.5, 32), case, keyed=True)
    if merged is not None:
        one_each = reduced(FasterVLMStep(1e-9), case, keyed=False)
        assert set(one_each.kept.tolist()) <= set(merged.kept.tolist())


@bounded
@given(case=cases((torch.float32,)), keep=ratios, seed=st.integers(0, 99))
def test_lengths_of_keys_and_scale_of_scores_do_not_matter(case, keep, seed):
    drawn = torch.randint(-3, 4, (len(case.units), 1, 1), generator=torch.Generator().manual_seed(seed))
    other = dataclasses.replace(case, keys=case.keys * 2.0**drawn, scores=case.scores / 16)
    merged, again = (reduced(PruMergePlusStep(keep, 0.5, 5), c, keyed=True) for c in (case, other))
    if merged is not None:
        assert torch.equal(merged.kept, again.kept)
        torch.testing.assert_close(merged.units, again.units)


def random_segment(n: int, width: int = 6):
    units, keys = (normal_units(1, n, width, seed=seed, dtype=torch.float32) for seed in (1, 2))
    scores = torch.rand(1, n, generator=torch.Generator().manual_seed(3))
    return units, scores, keys


def test_a_single_unit_is_the_weighted_mean_at_the_place_of_the_best():
    units, scores, keys = random_segment(9)
    merged = absorb(1, units, scores, keys, top=0.5, neighbours=32)
    assert merged.kept.tolist() == [[int(scores.argmax())]]
    mean = (scores[0, :, None] * units[0]).sum(0) / scores.sum()
    torch.testing.assert_close(merged.units[0, 0], mean)


def test_with_all_others_near_every_unit_adds_the_mean_without_itself():
    units, scores, keys = random_segment(12)
    merged = absorb(7, units, scores, keys, top=0.5, neighbours=11)
    share, kept = scores[0] / scores.sum(), merged.kept[0]
    grown = units[0, kept] + share @ units[0] - share[kept, None] * units[0, kept]
    (extra,) = [i for i in range(7) if not torch.allclose(merged.units[0, i], grown[i], atol=1e-5)]
    gone = torch.tensor([i for i in range(12) if i not in kept or i == kept[extra]])
    assert share[kept[extra]] == share[gone].max()
    torch.testing.assert_close(merged.units[0, extra], share[gone] @ units[0, gone])


def test_half_by_score_half_at_a_stride_and_one_more():
    """The lowest scores come first: 13 14 15 are the best; of the others 0, 4, 8; then the best dropped."""
    scores = torch.arange(1.0, 17.0)[None]
    merged = absorb(7, torch.ones(1, 16, 1), scores, torch.ones(1, 16, 2), top=0.5, neighbours=32)
    assert merged.kept.tolist() == [[0, 4, 8, 12, 13, 14, 15]]
    merged = absorb(7, torch.ones(1, 16, 1), scores, torch.ones(1, 16, 2), top=1.0, neighbours=32)
    assert merged.kept.tolist() == [[9, 10, 11, 12, 13, 14, 15]]


def test_segments_shrunk_before_keep_to_the_original_budget():
    drawn = torch.Generator().manual_seed(0)
    units, scores, keys = (torch.rand(8, *shape, generator=drawn) for shape in ((5,), (1,), (1, 4)))
    merged = reduced(PruMergePlusStep(0.4, 0.5, 2), Case(units, scores, keys, (5, 3)), True, full=(10, 10))
    assert merged.lengths == (4, 3)
    assert_same_bits(merged.units[4:], units[5:])


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_it_observes_a_single_head_over_the_full_width(prefix, key_heads):
    drawn = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 7, 3, generator=drawn)
    key = torch.randn(2, key_heads, 7, 3, generator=drawn)
    seen = PruMergePlusStep(0.5, 0.5, 32).observe_encoder(EncoderAttention(query, key, 0.9, prefix))
    for b in range(2):
        wide_q = torch.cat([query[b, h] for h in range(4)], -1)
        wide_k = torch.cat([key[b, h * key_heads // 4] for h in range(4)], -1)
        weights = (wide_q @ wide_k.T / 12**0.5).softmax(-1)
        torch.testing.assert_close(seen[b, :, 0], weights[0] if prefix else weights.sum(0))
        assert torch.equal(seen[b, :, 1:], wide_k)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": -1}, r"keep must lie in \(0, 1\], got -1"),
        ({"top": 0}, r"top must lie in \(0, 1\], got 0"),
        ({"top": "half"}, r"top must lie in \(0, 1\], got 'half'"),
        ({"neighbours": 0}, "neighbours must be a whole number from 1 up, got 0"),
        ({"neighbours": True}, "neighbours must be a whole number from 1 up, got True"),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PruMergePlus(**fields)


@pytest.mark.parametrize("method", [PruMergePlus(), PruMergePlus(keep=1 / 9, top=0.25, neighbours=8)])
def test_it_goes_to_a_dictionary_and_back(method):
    values = method.to_dict()
    assert values["method"] == "prumerge+"
    assert Method.from_dict(values) == method


def test_defaults():
    assert PruMergePlus().plan(None).projector == PruMergePlusStep(0.25, 0.5, 32)
    assert PruMergePlusStep.last_block
    assert PruMergePlus(keep=1.0).plan(None).empty
