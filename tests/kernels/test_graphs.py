"""Replayed functions: what they compute, and when they are recorded anew. A graph is replaced by the function
it records; on a graphics card, tests/gpu runs real ones."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from illava.methods import dart, divprune, prumerge, sparsevlm, tome, visionzip, vispruner
from illava.ops import graphs, merging
from illava.ops.graphs import Graphs, captured
from illava.ops.merge_weights import merge_weights
from illava.ops.merging import merge, reduce_segments


class Recorded:
    """Runs the function on its own copies of the inputs, and returns the same memory each time."""

    def __init__(self, function, tensors, pool):
        self.inputs, self.function = [tensor.clone() for tensor in tensors], function
        self.outputs = function(*self.inputs)
        made.append(self)

    def replay(self, tensors):
        for own, given in zip(self.inputs, tensors, strict=True):
            own.copy_(given)
        write(self.outputs, self.function(*self.inputs))
        return self.outputs


made: list[Recorded] = []


def write(to, values):
    if isinstance(to, Tensor):
        to.copy_(values)
    elif isinstance(to, tuple):
        for one, value in zip(to, values, strict=True):
            write(one, value)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    made.clear()
    monkeypatch.setenv("ILLAVA_KERNELS", "torch")
    monkeypatch.setattr(graphs, "usable", lambda tensors: bool(tensors))
    monkeypatch.setattr(graphs, "GRAPHS", Graphs())
    monkeypatch.setattr(Graphs, "_capture", lambda self, function, tensors: Recorded(function, tensors, None))


def units_of(seed: int, n: int = 24, segments: int = 2) -> Tensor:
    return torch.randn(segments, n, 6, generator=torch.Generator().manual_seed(seed))


def scores_of(seed: int, n: int = 24, segments: int = 2) -> Tensor:
    return torch.rand(segments, n, generator=torch.Generator().manual_seed(seed))


CALLS = {
    "merge": (lambda seed: merge(units_of(seed), scores_of(seed), 7), merging, "_captured_merge"),
    "fold": (
        lambda seed: merging.merge_diverse(
            units_of(seed), scores_of(seed), 7, reduce="fold", similarity="cosine", counted=True
        ),
        merging,
        "_captured_diverse_fold",
    ),
    "divprune": (lambda seed: divprune.keep_diverse(7, units_of(seed)), divprune, "keep_diverse"),
    "vispruner": (
        lambda seed: vispruner.prune(9, units_of(seed), scores_of(seed), important=0.5, per_round=2),
        vispruner,
        "prune",
    ),
    "tome": (
        lambda seed: tome.merge_similar(15, units_of(seed), units_of(seed + 9), sizes=1 + scores_of(seed)),
        tome,
        "merge_similar",
    ),
    "visionzip": (
        lambda seed: visionzip.gather(
            9, units_of(seed), scores_of(seed), units_of(seed + 9), contextual=0.3, halve=False
        ),
        visionzip,
        "gather",
    ),
    "prumerge+": (
        lambda seed: prumerge.absorb(
            9, units_of(seed), scores_of(seed), units_of(seed + 9), top=0.5, neighbours=4
        ),
        prumerge,
        "absorb",
    ),
    "sparsevlm": (
        lambda seed: sparsevlm.recycle_clusters(9, units_of(seed), scores_of(seed)),
        sparsevlm,
        "recycle_clusters",
    ),
    "dart": (
        lambda seed: dart.keep_dissimilar(
            11, units_of(seed), scores_of(seed), units_of(seed + 50, 3), torch.tensor([3, 2])
        ),
        dart,
        "keep_dissimilar",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_replay_computes_what_the_function_does(name, monkeypatch):
    call, module, function = CALLS[name]
    replayed = [call(seed) for seed in range(4)]
    assert len(made) == 1, "the first call runs as it is, the second is recorded, the others are replayed"
    monkeypatch.setattr(module, function, getattr(module, function).__wrapped__)
    for seed, found in enumerate(replayed):
        want = call(seed)
        for one, other in zip(found[:3], want[:3], strict=True):
            assert (one is None and other is None) or torch.equal(one, other)


def test_other_shapes_options_and_dtypes_are_recorded_apart():
    for _ in range(3):
        merge(units_of(0), scores_of(0), 7)
        merge(units_of(0), scores_of(0), 8)
        merge(units_of(0), scores_of(0), 7, reduce="weighted")
        merge(units_of(0).bfloat16(), scores_of(0), 7)
        merge(units_of(0, 20), scores_of(0, 20), 7)
    assert len(made) == 5


def test_the_least_recently_used_graph_is_dropped(monkeypatch):
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
    for p in (3, 3, 4, 4, 3, 5, 5):
        merge(units_of(0), scores_of(0), p)
    assert len(made) == 3
    merge(units_of(0), scores_of(0), 3)
    assert len(made) == 3, "still held"
    for _ in range(2):
        merge(units_of(0), scores_of(0), 4)
    assert len(made) == 4, "dropped, and recorded anew"


def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch):
    def refused(function, tensors, pool):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.undo()
    monkeypatch.setenv("ILLAVA_KERNELS", "torch")
    monkeypatch.setattr(graphs, "usable", lambda tensors: bool(tensors))
    monkeypatch.setattr(graphs, "GRAPHS", Graphs())
    monkeypatch.setattr(graphs, "Graph", refused)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    want = merge(units_of(0), scores_of(0), 7).units
    for _ in range(3):
        assert torch.equal(merge(units_of(0), scores_of(0), 7).units, want)


def test_a_trace_after_a_replay_is_that_of_the_step():
    def step(seed):
        def reducer(p, units, scores):
            return merge(units, scores, p, reduce="fold")

        return reduce_segments(
            reducer, (24,), (7,), units_of(seed, segments=1)[0], scores_of(seed, segments=1)[0]
        )

    for seed in range(3):
        merged = step(seed)
    weights = merge_weights(merged)
    units = units_of(2, segments=1)[0]
    again = torch.zeros(7, 6).index_add(0, weights.into, weights.weight[:, None] * units[weights.source])
    torch.testing.assert_close(again, merged.units)


def test_results_are_not_overwritten_by_the_next_replay():
    results = [merge(units_of(seed), scores_of(seed), 7) for seed in range(4)]
    assert len({float(result.units.sum()) for result in results}) == 4


class Pair(NamedTuple):
    first: Tensor
    second: Tensor | None


def test_options_may_be_given_by_name_or_by_place():
    @captured
    def scaled(factor: float, x: Tensor, *, shift: float = 0) -> Pair:
        return Pair(factor * x + shift, None)

    for value in (1.0, 2.0, 3.0):
        assert scaled(2.0, torch.full((2,), value), shift=1).first.tolist() == [2 * value + 1] * 2
    assert len(made) == 1


def test_a_function_without_tensors_on_a_card_is_called(monkeypatch):
    monkeypatch.undo()
    assert not graphs.usable([])
    assert not graphs.usable([torch.ones(1)])
