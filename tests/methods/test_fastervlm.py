"""FasterVLM: the highest-scored units, against a loop and by properties. On models: test_behind_encoder."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from illava.methods.base import Method
from illava.methods.fastervlm import FasterVLM, FasterVLMStep
from tests.core.cases import DTYPES, assert_same_bits, bounded, ratios
from tests.methods.behind_encoder import assert_like_loop, cases, reduced
from tests.methods.loops_behind_encoder import fastervlm_loop


@settings(bounded, max_examples=100)
@given(case=cases(DTYPES), keep=ratios)
def test_it_equals_the_loop(case, keep):
    assert_like_loop(FasterVLMStep(keep), case, keep, fastervlm_loop, keyed=False)


@bounded
@given(case=cases(DTYPES), keep=ratios)
def test_survivors_are_untouched_and_better_than_what_goes(case, keep):
    merged = reduced(FasterVLMStep(keep), case, keyed=False)
    if merged is None:
        return
    assert_same_bits(merged.units, case.units[merged.kept])
    start = 0
    for n in case.lengths:
        here = set(range(start, start + n))
        stay = here & set(merged.kept.tolist())
        scores = case.scores.mean(1)
        assert min(scores[sorted(stay)]) >= max(scores[sorted(here - stay)], default=0)
        start += n


@bounded
@given(case=cases((torch.float32,)), ratio=st.tuples(ratios, ratios))
def test_a_smaller_share_is_a_part_of_a_larger_one(case, ratio):
    small, large = (reduced(FasterVLMStep(keep), case, keyed=False) for keep in sorted(ratio))
    if large is not None:
        assert set(small.kept.tolist()) <= set(large.kept.tolist())


@pytest.mark.parametrize("keep", [0, -0.5, 1.5, True, "half", float("nan")])
def test_a_share_outside_0_1_is_refused(keep):
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got"):
        FasterVLM(keep)


@pytest.mark.parametrize("method", [FasterVLM(), FasterVLM(keep=1), FasterVLM(keep=0.05)])
def test_it_goes_to_a_dictionary_and_back(method):
    values = method.to_dict()
    assert values["method"] == "fastervlm"
    assert Method.from_dict(values) == method


def test_defaults():
    assert FasterVLM().plan(None).projector == FasterVLMStep(0.25)
    assert FasterVLM(keep=1).plan(None).empty
