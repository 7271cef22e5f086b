"""Replayed functions: what they compute, and when they are recorded anew. A graph is replaced by the function
it records; on a graphics card, tests/gpu runs real ones."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from illava.methods import dart, divprune, mmtok, prumerge, sparsevlm, tome, visionzip, vispruner
from illava.ops import coverage, graphs, merging, two_depths
from illava.ops.graphs import Graphs, captured
from illava.ops.merge_weights import merge_weights
from illava.ops.merging import merge, reduce_segments


class Recorded:
    """Runs the function on its own copies of the inputs, and returns the same memory each time."""

    def __init__(self, function, tensors):
        self.inputs, self.function = [tensor.clone() for tensor in tensors], function
        outputs = function(*self.inputs)
        self.mapped = getattr(outputs, "linear_map", None) is not None
        self.outputs = outputs._replace(linear_map=None) if self.mapped else outputs
        self.bytes = graphs.Graph.bytes.fget(self)
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
    monkeypatch.setattr(Graphs, "_capture", lambda self, function, tensors: Recorded(function, tensors))
    for name in ("_after_others", "_done"):
        monkeypatch.setattr(Graphs, name, lambda self, device: None)


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
    "coverage": (
        lambda seed: coverage.coverage_ranking(units_of(seed), scores_of(seed), 7),
        coverage,
        "_captured_ranking",
    ),
    "two depths": (
        lambda seed: two_depths.two_depths_ranking(
            units_of(seed), units_of(seed + 9), scores_of(seed), first=5, p=9
        ),
        two_depths,
        "_captured_ranking",
    ),
    "divprune": (lambda seed: divprune.keep_diverse(7, units_of(seed)), divprune, "keep_diverse"),
    "mmtok": (
        lambda seed: mmtok.keep_covering(
            7, units_of(seed), units_of(seed + 9, 5), scores_of(seed + 9, 5) < 0.7
        ),
        mmtok,
        "keep_covering",
    ),
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
    replayed = [call(seed) for seed in range(5)]
    assert len(made) == 1, "two calls run as they are, the third is recorded, the others are replayed"
    monkeypatch.setattr(module, function, getattr(module, function).__wrapped__)
    for seed, found in enumerate(replayed):
        want = call(seed)
        for one, other in zip(found[:3], want[:3], strict=True):
            assert (one is None and other is None) or torch.equal(one, other)


def test_other_shapes_options_and_dtypes_are_recorded_apart():
    for _ in range(4):
        merge(units_of(0), scores_of(0), 7)
        merge(units_of(0), scores_of(0), 8)
        merge(units_of(0), scores_of(0), 7, reduce="fold")
        merge(units_of(0), scores_of(0), 7, reduce="weighted")  # a few operations, never recorded
        merge(units_of(0).bfloat16(), scores_of(0), 7)
        merge(units_of(0, 20), scores_of(0, 20), 7)
    assert len(made) == 5


def test_graphs_hold_a_limited_number_of_bytes(monkeypatch):
    def repeat(p):
        for _ in range(3):
            merge(units_of(0), scores_of(0), p)

    repeat(3)
    monkeypatch.setattr(graphs, "MOST_BYTES", 5 * made[0].bytes // 2)
    repeat(4)
    merge(units_of(0), scores_of(0), 3)
    repeat(5)
    assert len(made) == 3
    merge(units_of(0), scores_of(0), 3)
    assert len(made) == 3, "still held"
    merge(units_of(0), scores_of(0), 4)
    assert len(made) == 4, "the least recently used one was dropped, and is recorded anew"


def test_as_many_functions_as_a_deep_encoder_has_blocks_are_replayed():
    for _ in range(4):
        for p in range(1, 24):
            merge(units_of(0), scores_of(0), p)
    assert len(made) == 23


def test_shapes_that_occur_once_are_forgotten_and_drop_no_graph(monkeypatch):
    monkeypatch.setattr(graphs, "MOST_SEEN", 8)
    for _ in range(3):
        merge(units_of(0), scores_of(0), 7)
    for n in range(10, 40):
        merge(units_of(0, n), scores_of(0, n), 7)
    assert len(made) == 1
    assert len(graphs.GRAPHS._held) == 1
    assert len(graphs.GRAPHS._seen) == 8


@pytest.mark.parametrize("fault", ["refused", "wrong"])
def test_after_one_failed_recording_functions_run_as_they_are(fault, monkeypatch):
    tried = []

    def refused(self, function, tensors):
        tried.append(function)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    def wrong(self, function, tensors):
        tried.append(function)
        # An empty graph returns what its memory held.
        graph = Recorded(function, tensors)
        graph.function = lambda *inputs: graph.outputs
        graph.outputs = graph.outputs._replace(units=graph.outputs.units + 1)
        return graph

    monkeypatch.setattr(Graphs, "_capture", {"refused": refused, "wrong": wrong}[fault])
    want = merge(units_of(0), scores_of(0), 7).units
    merge(units_of(0), scores_of(0), 7)
    reason = {"refused": "RuntimeError: operation not permitted.*capturing$", "wrong": "a replay differs"}[
        fault
    ]
    with pytest.warns(UserWarning, match=rf"no longer records CUDA graphs.*{reason}"):
        assert torch.equal(merge(units_of(0), scores_of(0), 7).units, want)
    for p in (7, 7, 8, 8, 8, 8):
        merge(units_of(0), scores_of(0), p)
    assert torch.equal(merge(units_of(0), scores_of(0), 7).units, want)
    assert len(tried) == 1


def test_memory_that_runs_out_is_not_hidden(monkeypatch):
    def fails(self, function, tensors):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Graphs, "_capture", fails)
    for _ in range(2):
        merge(units_of(0), scores_of(0), 7)
    with pytest.raises(torch.OutOfMemoryError):
        merge(units_of(0), scores_of(0), 7)


def test_a_trace_after_a_replay_is_that_of_the_step():
    def step(seed):
        def reducer(p, units, scores):
            return merge(units, scores, p, reduce="fold")

        return reduce_segments(
            reducer, (24,), (7,), units_of(seed, segments=1)[0], scores_of(seed, segments=1)[0]
        )

    for seed in range(5):
        merged = step(seed)
    weights = merge_weights(merged)
    units = units_of(4, segments=1)[0]
    again = torch.zeros(7, 6).index_add(0, weights.into, weights.weight[:, None] * units[weights.source])
    torch.testing.assert_close(again, merged.units)


def test_results_are_not_overwritten_by_the_next_replay():
    results = [merge(units_of(seed), scores_of(seed), 7) for seed in range(6)]
    assert len({float(result.units.sum()) for result in results}) == 6


class Pair(NamedTuple):
    first: Tensor
    second: Tensor | None


def test_options_may_be_given_by_name_or_by_place():
    @captured
    def scaled(factor: float, x: Tensor, *, shift: float = 0) -> Pair:
        return Pair(factor * x + shift, None)

    for value in (1.0, 2.0, 3.0, 4.0):
        assert scaled(2.0, torch.full((2,), value), shift=1).first.tolist() == [2 * value + 1] * 2
    assert len(made) == 1


def test_a_function_without_tensors_on_a_card_is_called(monkeypatch):
    monkeypatch.undo()
    assert not graphs.usable([])
    assert not graphs.usable([torch.ones(1)])
