"""VisPruner: attention and diversity, against a loop and by properties. On models: test_behind_encoder."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illava.methods.base import Method
from illava.methods.fastervlm import FasterVLMStep
from illava.methods.vispruner import VisPruner, VisPrunerStep, most_diverse, prune
from tests.core.cases import DTYPES, assert_same_bits, bounded, ratios
from tests.methods.behind_encoder import Case, assert_like_loop, cases, reduced
from tests.methods.loops_behind_encoder import vispruner_loop


@settings(bounded, max_examples=200)
@given(
    case=cases(DTYPES, most=24),
    keep=ratios,
    important=st.sampled_from([0.01, 0.25, 0.5, 0.75, 1.0]),
    per_round=st.sampled_from([1, 2, 3, 8, 100]),
)
def test_it_equals_the_loop(case, keep, important, per_round):
    fields = {"important": important, "per_round": per_round}
    assert_like_loop(VisPrunerStep(keep, **fields), case, keep, vispruner_loop, keyed=False, **fields)


@bounded
@given(case=cases(DTYPES), keep=ratios)
def test_the_best_stay_and_all_are_untouched(case, keep):
    merged = reduced(VisPrunerStep(keep, 0.5, 8), case, keyed=False)
    if merged is None:
        return
    assert_same_bits(merged.units, case.units[merged.kept])
    assert list(merged.lengths) == [max(1, round(keep * n)) for n in case.lengths]
    one_each = reduced(FasterVLMStep(1e-9), case, keyed=False)
    assert set(one_each.kept.tolist()) <= set(merged.kept.tolist())


@bounded
@given(case=cases(DTYPES), keep=ratios)
def test_by_attention_alone_it_is_fastervlm(case, keep):
    ours = reduced(VisPrunerStep(keep, 1.0, 8), case, keyed=False)
    theirs = reduced(FasterVLMStep(keep), case, keyed=False)
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert torch.equal(ours.kept, theirs.kept)


@bounded
@given(case=cases((torch.float32,)), keep=ratios, seed=st.integers(0, 99))
def test_lengths_of_vectors_do_not_matter(case, keep, seed):
    drawn = torch.randint(-3, 4, (len(case.units), 1), generator=torch.Generator().manual_seed(seed))
    other = dataclasses.replace(case, units=case.units * 2.0**drawn)
    merged, again = (reduced(VisPrunerStep(keep, 0.5, 2), c, keyed=False) for c in (case, other))
    if merged is not None:
        assert torch.equal(merged.kept, again.kept)


def test_a_round_removes_duplicates():
    """Eight different vectors, each beside its double: one of each stays."""
    vectors = torch.eye(8).repeat_interleave(2, dim=0)[None]
    assert most_diverse(vectors, 8, 100).tolist() == [[1, 3, 5, 7, 9, 11, 13, 15]]
    assert most_diverse(vectors, 8, 1).unique().numel() == 8


def test_rounds_deal_anew():
    """A stranger among units all alike: a single round would remove it for its even place."""
    vectors = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [1, 0], [1, 0], [1, 0]]])
    assert most_diverse(vectors, 3, 100).tolist() == [[1, 3, 5]]
    # One a round go 0, 1 (of 1 2 3 4 5), 4 (of 2 3 4 5), 5 (of 2 3 5).
    assert most_diverse(vectors, 2, 1).tolist() == [[2, 3]]


@pytest.mark.parametrize(("p", "by_attention"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (128, 64)])
def test_half_is_chosen_by_attention(p, by_attention):
    """Where all are alike the first goes in every round, so that diversity takes the last ones."""
    n = 2 * p + 4
    scores = torch.arange(n, 0, -1.0)[None]
    kept = prune(p, torch.ones(1, n, 1), scores, important=0.5, per_round=1).kept[0].tolist()
    assert kept == [*range(by_attention), *range(n - p + by_attention, n)]


def test_segments_shrunk_before_keep_to_the_original_budget():
    units = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    case = Case(units, torch.rand(8, 1), torch.rand(8, 1, 4), (5, 3))
    merged = reduced(VisPrunerStep(0.4, 0.5, 8), case, keyed=False, full=(10, 10))
    assert merged.lengths == (4, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": 0}, r"keep must lie in \(0, 1\], got 0"),
        ({"important": 0}, r"important must lie in \(0, 1\], got 0"),
        ({"important": 1.1}, r"important must lie in \(0, 1\], got 1.1"),
        ({"per_round": 0}, "per_round must be a whole number from 1 up, got 0"),
        ({"per_round": 2.0}, "per_round must be a whole number from 1 up, got 2.0"),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        VisPruner(**fields)


@pytest.mark.parametrize("method", [VisPruner(), VisPruner(keep=0.1, important=0.75, per_round=3)])
def test_it_goes_to_a_dictionary_and_back(method):
    values = method.to_dict()
    assert values["method"] == "vispruner"
    assert Method.from_dict(values) == method


def test_defaults():
    assert VisPruner().plan(None).projector == VisPrunerStep(128 / 576, 0.5, 8)
    assert VisPruner(keep=1.0).plan(None).empty
