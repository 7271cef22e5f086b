"""Survivors made by kernels, against the merge step written out as loops."""

from __future__ import annotations

import pytest
import torch

from illava.ops.marks import propagated
from illava.ops.merge_weights import merge_weights
from illava.ops.merging import merge, merge_diverse, merge_segments, reduce_segments
from illava.ops.selection import diverse_ranking
from tests.core.loops import merge_loop
from tests.kernels.device import DEVICE


@pytest.mark.parametrize("reduce", ["fold", "recycle"])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize(("n", "width", "p"), [(2, 3, 1), (40, 600, 13), (90, 5, 89)])
def test_similarities_equal_the_loop(n, width, p, reduce, similarity):
    generator = torch.Generator().manual_seed(n)
    units = torch.randn(2, n, width, generator=generator)
    units[0] *= torch.linspace(0.1, 5, n)[:, None]  # lengths on which the two differ
    scores = torch.rand(2, n, generator=generator)
    merged = merge(units.to(DEVICE), scores.to(DEVICE), p, reduce=reduce, recycle=0.4, similarity=similarity)
    for segment in range(2):
        rows, kept, _ = merge_loop(units[segment], scores[segment], p, reduce, 0.4, 5, similarity)
        assert merged.kept[segment].tolist() == kept
        torch.testing.assert_close(merged.units[segment].cpu().double(), rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_diverse_step_equals_its_two_parts(dtype, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    units = torch.randn(2, 50, 12, generator=generator).to(DEVICE, dtype)
    scores = torch.rand(2, 50, generator=generator).to(DEVICE)
    sizes = torch.randint(1, 5, (2, 50), generator=generator).float().to(DEVICE)
    options = {"reduce": "fold", "similarity": "cosine", "sizes": sizes}
    found = merge_diverse(units, scores, 9, **options)
    monkeypatch.setenv("ILLAVA_KERNELS", "torch")
    want = merge(units, diverse_ranking(units, scores, 9), 9, **options)
    assert torch.equal(found.kept, want.kept)
    assert torch.equal(found.sizes, want.sizes)
    torch.testing.assert_close(
        found.units, want.units, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
    )


@pytest.mark.parametrize("select", ["highest", "diverse"])
@pytest.mark.parametrize("reduce", ["fold", "recycle"])
def test_merge_weights_describe_what_the_kernels_computed(reduce, select):
    generator = torch.Generator().manual_seed(4)
    units, scores = torch.randn(60, 7, generator=generator), torch.rand(60, generator=generator)
    step = merge if select == "highest" else merge_diverse

    def reducer(p, x, s, sizes=None):
        return step(x, s, p, reduce=reduce, similarity="cosine", sizes=sizes)

    merged = reduce_segments(reducer, (20, 20, 20), (6, 6, 6), units.to(DEVICE), scores.to(DEVICE))
    weights = merge_weights(merged)
    made = torch.zeros(18, 7).index_add(
        0, weights.into.cpu(), weights.weight.cpu()[:, None] * units[weights.source.cpu()]
    )
    torch.testing.assert_close(made, merged.units.cpu(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [(12,), (12, 12), (5, 12, 3)])
def test_segments_of_any_size(lengths, monkeypatch):
    generator = torch.Generator().manual_seed(5)
    units = torch.randn(sum(lengths), 6, generator=generator).to(DEVICE)
    scores = torch.rand(sum(lengths), generator=generator).to(DEVICE)
    counts = [n // 2 for n in lengths]
    found = merge_segments(units, scores, lengths, counts)
    monkeypatch.setenv("ILLAVA_KERNELS", "torch")
    want = merge_segments(units, scores, lengths, counts)
    assert torch.equal(found.kept, want.kept)
    torch.testing.assert_close(found.units, want.units, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("lengths", "left"), [((30,), (9,)), ((10, 10), (4, 4)), ((10, 3, 17), (4, 3, 5))])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_reaches_every_survivor_of_its_segment(lengths, left, value):
    survivors = torch.randn(sum(left), 20)
    for bad in range(len(lengths)):
        units = torch.randn(sum(lengths), 700)
        units[sum(lengths[: bad + 1]) - 1, 699] = value
        found = propagated(survivors.to(DEVICE), units.to(DEVICE), lengths, left).cpu()
        for segment, rows in enumerate(found.split(left)):
            if segment == bad:
                assert rows.isnan().all()
            else:
                assert torch.equal(rows, survivors.split(left)[segment])


def test_gradients_take_the_differentiable_way():
    units = torch.randn(1, 9, 4).to(DEVICE).requires_grad_()
    merge(units, torch.rand(1, 9).to(DEVICE), 3, reduce="fold").units.sum().backward()
    assert units.grad is not None


@pytest.mark.parametrize("reduce", ["fold", "recycle"])
def test_scores_may_have_any_strides(reduce):
    generator = torch.Generator().manual_seed(6)
    units, scores = torch.randn(3, 20, 8, generator=generator), torch.rand(20, 3, generator=generator).t()
    found = merge(units.to(DEVICE), scores.to(DEVICE), 7, reduce=reduce)
    again = merge(units.to(DEVICE), scores.contiguous().to(DEVICE), 7, reduce=reduce)
    assert torch.equal(found.kept, again.kept)
    assert torch.equal(found.units, again.units)


def test_one_survivor_may_absorb_many():
    """A blank page: all units but a few are copies."""
    units = torch.eye(5, 8).repeat_interleave(torch.tensor([200, 1, 1, 1, 40]), 0)[None]
    sizes = torch.arange(1, 244).float()[None]
    for given in (None, sizes):
        merged = merge_diverse(
            units.to(DEVICE), torch.ones(1, 243, device=DEVICE), 5, reduce="fold", similarity="cosine",
            sizes=None if given is None else given.to(DEVICE), counted=True,
        )  # fmt: skip
        counts = torch.ones(1, 243) if given is None else given
        of = [*counts[0].split([200, 1, 1, 1, 40])]
        assert merged.sizes[0].tolist() == [float(part.sum()) for part in of]
        torch.testing.assert_close(merged.units[0].cpu(), torch.eye(5, 8))


def test_a_diverse_step_checks_its_arguments():
    units, scores = torch.randn(1, 5, 4).to(DEVICE), torch.rand(1, 5).to(DEVICE)
    with pytest.raises(ValueError, match="between 1 and 4 of 5"):
        merge_diverse(units, scores, 6, reduce="fold", similarity="cosine")
    with pytest.raises(ValueError, match="scores"):
        merge_diverse(units, scores[:, :4], 2, reduce="fold", similarity="cosine")
