"""The kernels and the replayed graphs on a graphics card; `make test-gpu` also runs tests/kernels there."""

from __future__ import annotations

import pytest
import torch

from illava.methods.divprune import keep_diverse
from illava.methods.mmtok import keep_covering
from illava.methods.vispruner import prune
from illava.ops import graphs, kernels
from illava.ops.kernels import trial
from illava.ops.merging import merge, merge_diverse
from illava.ops.selection import diverse_ranking

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card"),
]

FOLD = {"reduce": "fold", "similarity": "cosine", "counted": True}


def units_of(seed: int, n: int = 576, width: int = 320) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, width, generator=generator), torch.rand(2, n, generator=generator)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_trial_finds_nothing(dtype: torch.dtype) -> None:
    assert trial.differences(torch.device("cuda", 0), dtype) == []


def test_kernels_are_used_and_agree_with_the_cpu() -> None:
    units, scores = units_of(0)
    assert kernels.enabled(units.cuda(), scores.cuda())
    for step in (lambda u, s: merge_diverse(u, s, 192, **FOLD), lambda u, s: merge(u, s, 490)):
        expected, found = step(units, scores), step(units.cuda(), scores.cuda())
        assert torch.equal(found.kept.cpu(), expected.kept)
        torch.testing.assert_close(found.units.cpu(), expected.units, rtol=1e-4, atol=1e-4)


def test_long_segments_take_bounded_memory() -> None:
    n, width = 16384, 256
    generator = torch.Generator(device="cuda").manual_seed(0)
    units = torch.randn(1, n, width, generator=generator, device="cuda")
    scores = torch.rand(1, n, generator=generator, device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    rank = diverse_ranking(units, scores, 64)
    assert torch.cuda.max_memory_allocated() - before < 4 * n * 64
    assert torch.equal(rank.cpu(), diverse_ranking(units.cpu(), scores.cpu(), 64))


CALLS = {
    "merge": lambda u, s: merge(u, s, 490),
    "best": lambda u, s: merge_diverse(u, s, 192, **FOLD),
    "divprune": lambda u, s: keep_diverse(64, u),
    "mmtok": lambda u, s: keep_covering(64, u, u[:, :9], s[:, :9] > 0.3),
    "vispruner": lambda u, s: prune(128, u, s, important=0.5, per_round=8),
}


@pytest.mark.parametrize("name", CALLS)
def test_graphs_compute_what_they_recorded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILLAVA_KERNELS", "torch")
    held = graphs.Graphs()
    monkeypatch.setattr(graphs, "GRAPHS", held)
    for seed in range(4):
        units, scores = units_of(seed)
        found, expected = CALLS[name](units.cuda(), scores.cuda()), CALLS[name](units, scores)
        assert torch.equal(found.kept.cpu(), expected.kept)
        torch.testing.assert_close(found.units.cpu(), expected.units, rtol=1e-4, atol=1e-4)
    assert [graph is not None for graph in held._held.values()] == [True], "it was recorded"
