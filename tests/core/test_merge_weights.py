"""Merge weights: survivors are the sums of their sources, each times its weight, whatever merged them."""

from __future__ import annotations

import pytest
import torch

from illava.methods.pool import pool_segments
from illava.methods.prumerge import absorb
from illava.methods.random import keep_random
from illava.methods.sparsevlm import recycle_clusters
from illava.methods.tome import merge_similar
from illava.methods.visionzip import gather
from illava.ops.merge_weights import MAX_ELEMENTS, merge_weights
from illava.ops.merging import REDUCTIONS, MergedSegments, merge_segments, reduce_segments

LENGTHS, COUNTS = (9, 0, 4, 9, 6), (4, 0, 4, 4, 2)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rebuilt(merged: MergedSegments, units: torch.Tensor) -> torch.Tensor:
    """(P, D): what the links say the survivors are, by a loop."""
    out = torch.zeros(len(merged.kept), units.shape[1])
    for into, source, weight in zip(*(part.tolist() for part in merge_weights(merged)), strict=True):
        out[into] += weight * units[source]
    return out


def steps() -> dict[str, tuple[torch.Tensor, MergedSegments | None]]:
    total = sum(LENGTHS)
    units, scores, sizes = drawn(total, 6), drawn(total, seed=1), 1 + drawn(total, seed=2).abs()
    made = {}
    for reduce in REDUCTIONS:
        for held in (None, sizes):
            merged = merge_segments(units, scores, LENGTHS, COUNTS, reduce=reduce, recycle=0.5, sizes=held)
            made[f"{reduce}{'' if held is None else ', sizes'}"] = (units, merged)
    keys, paid = drawn(total, 5, seed=3), scores.softmax(0)
    others = {
        "visionzip": (lambda p, u, s, k: gather(p, u, s, k, contextual=0.4, halve=True), (paid, keys)),
        "visionzip, sums": (lambda p, u, s, k: gather(p, u, s, k, contextual=0.4, halve=False), (paid, keys)),
        "prumerge": (lambda p, u, s, k: absorb(p, u, s, k, top=0.5, neighbours=3), (paid, keys)),
        "sparsevlm": (recycle_clusters, (scores,)),
        "random": (lambda p, u: keep_random(p, u, 3), ()),
    }
    for name, (reducer, more) in others.items():
        made[name] = units, reduce_segments(reducer, LENGTHS, COUNTS, units, *more)
    made["tome"] = (
        units,
        reduce_segments(merge_similar, LENGTHS, (6, 0, 4, 5, 4), units, keys, sizes=sizes),
    )
    made["pool"] = units, pool_segments(units, ((3, 3), (2, 2), (1, 9), (2, 3)), 0.5)
    return made


STEPS = steps()


@pytest.mark.parametrize("name", STEPS)
def test_survivors_are_what_the_links_say(name: str) -> None:
    units, merged = STEPS[name]
    torch.testing.assert_close(rebuilt(merged, units), merged.units, atol=1e-5, rtol=0)
    into, source, weight = merge_weights(merged)
    assert set(into.tolist()) == set(range(len(merged.kept)))
    assert (weight != 0).all()
    order = (into * 1000 + source).tolist()
    assert order == sorted(set(order))


@pytest.mark.parametrize("name", ["recycle", "drop", "weighted", "fold", "fold, sizes", "tome", "pool"])
def test_means_have_weights_that_sum_to_one(name: str) -> None:
    _, merged = STEPS[name]
    into, _, weight = merge_weights(merged)
    sums = torch.zeros(len(merged.kept)).index_add(0, into, weight)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_folding_by_hand() -> None:
    units = torch.tensor([[1.0, 0], [0, 2], [3, 0.1], [0, 1]])
    # Units 0 and 1 stay; 2 points along 0, and 3 along 1.
    merged = merge_segments(
        units, torch.tensor([4.0, 3, 2, 1]), (4,), (2,), reduce="fold", similarity="cosine"
    )
    assert [part.tolist() for part in merge_weights(merged)] == [[0, 0, 1, 1], [0, 2, 1, 3], [0.5] * 4]


def test_recycling_by_hand() -> None:
    units = torch.tensor([[2.0], [1.0], [1.0], [0.0]])
    # The survivor of the lower score, unit 1, takes in both others, by exp(1 * 1) and exp(1 * 0).
    merged = merge_segments(units, torch.tensor([4.0, 3, 2, 1]), (4,), (2,), reduce="recycle", recycle=0.05)
    into, source, weight = merge_weights(merged)
    e = torch.e
    assert into.tolist() == [0, 1, 1, 1]
    assert source.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(weight, torch.tensor([1, 0.5, e / (e + 1) / 2, 1 / (e + 1) / 2]))


def test_many_units_are_asked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    _, merged = STEPS["fold"]
    whole = merge_weights(merged)
    assert sum(LENGTHS) ** 2 < MAX_ELEMENTS
    monkeypatch.setattr("illava.ops.merge_weights.MAX_ELEMENTS", 20)
    for part, other in zip(merge_weights(merged), whole, strict=True):
        assert torch.equal(part, other)
