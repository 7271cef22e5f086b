"""Selection by kernels against the loop written out, ties included."""

from __future__ import annotations

import pytest
import torch

from illava.ops import selection
from illava.ops.selection import diverse_ranking
from tests.core.loops import diverse_loop
from tests.kernels.device import DEVICE


def order_of(rank: torch.Tensor, p: int) -> list[int]:
    return rank.argsort(descending=True, stable=True)[:p].tolist()


@pytest.fixture(params=["pairs", "rounds"])
def way(request, monkeypatch):
    """Short segments, with all cosines at once, and long ones, with a launch a round."""
    monkeypatch.setattr(selection, "MAX_PAIRWISE_UNITS", 4096 if request.param == "pairs" else 0)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("segments", "n", "width", "p"), [(1, 1, 4, 1), (2, 20, 5, 20), (2, 40, 70, 13), (1, 140, 9, 9)]
)
def test_the_order_is_that_of_the_loop(way, segments, n, width, p, dtype):
    generator = torch.Generator().manual_seed(n)
    units = torch.randn(segments, n, width, generator=generator).to(dtype)
    scores = torch.rand(segments, n, generator=generator)
    rank = diverse_ranking(units.to(DEVICE), scores.to(DEVICE), p).cpu()
    for segment in range(segments):
        want = diverse_loop(units[segment].double().tolist(), scores[segment].double().tolist(), p)
        assert order_of(rank[segment], p) == want
        assert sorted(rank[segment].tolist(), reverse=True) == [*range(n, n - p, -1), *[0] * (n - p)]


def test_ties_go_to_the_first(way):
    # Four directions, three copies of each, equal scores: every choice but the first few is a tie.
    units = torch.eye(4).repeat_interleave(3, 0)[None]
    rank = diverse_ranking(units.to(DEVICE), torch.ones(1, 12, device=DEVICE), 12).cpu()
    assert order_of(rank[0], 12) == [0, 3, 6, 9, 1, 2, 4, 5, 7, 8, 10, 11]


def test_copies_are_selected_in_order_of_index_whatever_the_kernel(way, monkeypatch):
    units = torch.randn(1, 6, 33, generator=torch.Generator().manual_seed(5)).repeat_interleave(4, 1)
    units, scores = units.to(DEVICE), torch.rand(1, 24, generator=torch.Generator().manual_seed(6)).to(DEVICE)
    found = diverse_ranking(units, scores, 24)
    monkeypatch.setenv("ILLAVA_KERNELS", "torch")
    assert torch.equal(found, diverse_ranking(units, scores, 24))


def test_each_unit_belongs_to_the_most_similar_selected_one(way):
    generator = torch.Generator().manual_seed(1)
    units, scores = torch.randn(2, 30, 6, generator=generator), torch.rand(2, 30, generator=generator)
    found = selection.select_diverse(units.to(DEVICE), scores.to(DEVICE), 7)
    kept, target = found.kept.cpu(), found.target.cpu()
    for segment in range(2):
        assert kept[segment].tolist() == sorted(order_of(found.rank[segment].cpu(), 7))
        chosen = units[segment][kept[segment]].double()
        cosines = torch.nn.functional.cosine_similarity(
            units[segment].double()[:, None], chosen[None], dim=-1
        )
        want = cosines.argmax(1)
        want[kept[segment]] = torch.arange(7)
        assert target[segment].tolist() == want.tolist()


def test_nan_selects_without_leaving_the_segment(way):
    units = torch.randn(1, 20, 4, generator=torch.Generator().manual_seed(0))
    units[0, 3] = float("nan")
    found = selection.select_diverse(units.to(DEVICE), torch.ones(1, 20, device=DEVICE), 8)
    assert len({*found.kept[0].tolist()}) == 8
    assert int(found.target.min()) >= 0
    assert int(found.target.max()) < 8


def test_many_segments_are_compared_a_few_at_a_time(monkeypatch):
    from illava.ops.kernels import selection as kernels

    generator = torch.Generator().manual_seed(2)
    units = torch.randn(5, 18, 4, generator=generator).to(DEVICE)
    scores = torch.rand(5, 18, generator=generator).to(DEVICE)
    whole = diverse_ranking(units, scores, 6)
    monkeypatch.setattr(kernels, "PAIR_BYTES", 2 * 4 * 18 * 18)
    assert torch.equal(diverse_ranking(units, scores, 6), whole)


@pytest.mark.slow
def test_long_segments_take_bounded_memory():
    n, held = 16384, []
    units = torch.randn(1, n, 2, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    zeros = torch.full_like
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "full_like", lambda *a, **k: held.append(zeros(*a, **k)) or held[-1])
        found = selection.select_diverse(units, torch.ones(1, n, device=DEVICE), 3)
    assert held
    assert max(tensor.numel() for tensor in held) <= n
    want = diverse_loop(units[0].cpu().double().tolist(), [1.0] * n, 3)
    assert order_of(found.rank[0].cpu(), 3) == want
