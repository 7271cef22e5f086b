"""Arbitrary steps by kernels, ties included, against the merge step written out as loops."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from illava.ops.merging import merge
from tests.core.cases import assert_merged_like_loop, bounded, segments
from tests.core.loops import merge_loop
from tests.kernels.device import DEVICE

few = settings(bounded, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(case=segments(most=14), reduce=st.sampled_from(["recycle", "fold"]), data=st.data())
def test_a_step_equals_the_loop(case, reduce, data):
    units, scores, p = case
    recycle, neighbours = data.draw(st.sampled_from([0.05, 0.5, 1.0])), data.draw(st.integers(1, 6))
    options = {"reduce": reduce, "recycle": recycle, "neighbours": neighbours}
    merged = merge(units.to(DEVICE), scores.to(DEVICE), p, **options)
    for segment in range(len(units)):
        want = merge_loop(units[segment], scores[segment], p, reduce, recycle, neighbours)
        assert_merged_like_loop(merged.units[segment].cpu(), merged.kept[segment].cpu(), units[segment], want)
