"""VisionZip: dominant and contextual units, against a loop and by its properties. On models:
test_behind_encoder."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illava.methods.base import Method
from illava.methods.steps import EncoderAttention
from illava.methods.visionzip import VisionZip, VisionZipStep, contextual_count, gather
from tests.core.cases import DTYPES, assert_same_bits, bounded, ratios
from tests.methods.behind_encoder import Case, assert_like_loop, cases, reduced
from tests.methods.loops_behind_encoder import visionzip_loop


@settings(bounded, max_examples=200)
@given(
    case=cases(DTYPES, most=24),
    keep=ratios,
    contextual=st.sampled_from([0.01, 10 / 64, 0.5, 0.8, 1.0]),
    reduce=st.sampled_from(["sum", "mean"]),
)
def test_it_equals_the_loop(case, keep, contextual, reduce):
    step = VisionZipStep(keep, contextual, reduce == "mean")
    assert_like_loop(step, case, keep, visionzip_loop, keyed=True, contextual=contextual, reduce=reduce)


@bounded
@given(case=cases(DTYPES), keep=ratios)
def test_dominant_units_are_the_best_and_untouched(case, keep):
    merged = reduced(VisionZipStep(keep, 10 / 64, False), case, keyed=True)
    if merged is None:
        return
    scores, start = case.scores.mean(1), 0
    for n, p in zip(case.lengths, merged.lengths, strict=True):
        order = sorted(range(start, start + n), key=lambda i: -float(scores[i]))
        best = order[: p if p == n else p - contextual_count(p, 10 / 64)]
        places = [merged.kept.tolist().index(i) for i in best]
        assert_same_bits(merged.units[places], case.units[best])
        start += n


@bounded
@given(case=cases((torch.float32,)), keep=ratios, seed=st.integers(0, 99))
def test_lengths_of_keys_and_scale_of_scores_do_not_matter(case, keep, seed):
    drawn = torch.randint(-3, 4, (len(case.units), 1, 1), generator=torch.Generator().manual_seed(seed))
    other = dataclasses.replace(case, keys=case.keys * 2.0**drawn, scores=case.scores * 8)
    merged, again = (reduced(VisionZipStep(keep, 0.4, False), c, keyed=True) for c in (case, other))
    if merged is not None:
        assert torch.equal(merged.kept, again.kept)
        torch.testing.assert_close(merged.units, again.units)


@pytest.mark.parametrize(
    ("p", "contextual"), [(192, 30), (128, 20), (64, 10), (1, 0), (2, 1), (3, 1), (9, 1), (10, 2)]
)
def test_counts_are_the_published_ones(p, contextual):
    assert contextual_count(p, VisionZip().contextual) == contextual


def test_at_least_one_unit_is_dominant():
    assert [contextual_count(p, 1.0) for p in (1, 2, 3, 64)] == [0, 1, 2, 63]


@pytest.mark.parametrize(("halve", "length"), [(False, 2.0), (True, 1.0)])
def test_a_contextual_unit_that_gathers_its_like_doubles_or_does_not(halve, length):
    units = torch.ones(1, 12, 3)
    merged = gather(6, units, torch.arange(12.0)[None], torch.ones(1, 12, 2), contextual=0.5, halve=halve)
    assert merged.kept.tolist() == [[0, 3, 6, 9, 10, 11]]
    # Of targets equally near the first gathers all.
    assert merged.units[0, :, 0].tolist() == [length, 1, 1, 1, 1, 1]


def test_every_unit_goes_to_the_target_of_the_nearest_key():
    """0 and 4 are targets; even units look one way and odd ones the other, but 2."""
    keys = torch.tensor([[[1.0, 0], [9, 1], [1, 9], [2, 1], [0, 1], [1, 2], [0, 3], [4, 1], [7, 7], [7, 7]]])
    units = 2.0 ** torch.arange(10)[None, :, None]
    scores = torch.tensor([[0.0] * 8 + [1, 1]])
    merged = gather(4, units, scores, keys, contextual=0.5, halve=False)
    assert merged.kept.tolist() == [[0, 4, 8, 9]]
    expected = [1 + (2 + 8 + 128) / 3, 16 + (4 + 32 + 64) / 3, 256, 512]
    torch.testing.assert_close(merged.units[0, :, 0], torch.tensor(expected))


def test_segments_shrunk_before_keep_to_the_original_budget():
    drawn = torch.Generator().manual_seed(0)
    units, scores, keys = (torch.rand(8, *shape, generator=drawn) for shape in ((5,), (1,), (1, 4)))
    merged = reduced(VisionZipStep(0.4, 0.3, False), Case(units, scores, keys, (5, 3)), True, full=(10, 10))
    assert merged.lengths == (4, 3)
    assert_same_bits(merged.units[4:], units[5:])


def test_keys_are_averaged_over_heads():
    drawn = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, 5, 4, generator=drawn) for _ in range(2))
    attention = EncoderAttention(query, key, 0.5, 1)
    seen = VisionZipStep(0.5, 0.2, False).observe_encoder(attention)
    assert seen.shape == (2, 5, 5)
    torch.testing.assert_close(seen[..., 1:], (key[:, 0] + key[:, 1] + key[:, 2]) / 3)
    row = (query[:, :, 0, None] @ key.transpose(2, 3) * 0.5).softmax(-1)[:, :, 0].mean(1)
    torch.testing.assert_close(seen[..., 0], row)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": 1.5}, r"keep must lie in \(0, 1\], got 1.5"),
        ({"contextual": 0}, r"contextual must lie in \(0, 1\], got 0"),
        ({"contextual": True}, r"contextual must lie in \(0, 1\], got True"),
        ({"reduce": "drop"}, "reduce must be one of sum, mean, got 'drop'"),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        VisionZip(**fields)


@pytest.mark.parametrize("method", [VisionZip(), VisionZip(keep=1 / 9, contextual=0.25, reduce="mean")])
def test_it_goes_to_a_dictionary_and_back(method):
    values = method.to_dict()
    assert values["method"] == "visionzip"
    assert Method.from_dict(values) == method


def test_defaults():
    assert VisionZip().plan(None).projector == VisionZipStep(1 / 3, 10 / 64, False)
    assert VisionZip(reduce="mean").plan(None).projector == VisionZipStep(1 / 3, 10 / 64, True)
    assert VisionZip(keep=1.0).plan(None).empty
