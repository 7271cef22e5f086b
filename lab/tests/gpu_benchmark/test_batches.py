"""The part "batches": the search for the largest batch, and what is called before anything is timed."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from illava_lab.benchmarks.gpu import context as contexts
from illava_lab.benchmarks.gpu.budget import Budget
from illava_lab.benchmarks.gpu.context import SHORT, WARM_UP, Context
from illava_lab.benchmarks.gpu.parts import batches, decoding, times
from illava_lab.benchmarks.gpu.settings import REHEARSAL, add_tiny_shapes

import illava
from illava.bench import run
from illava.ops import graphs

SHAPE = "tiny-qwen2_5_vl"
ANSWER = 3


@pytest.fixture
def context() -> Context:
    add_tiny_shapes()
    settings = dataclasses.replace(REHEARSAL, shape=SHAPE, size=64, sizes=(64,), answer=ANSWER, most=64)
    return Context(settings, Budget(100))


@pytest.mark.parametrize("limit", [32, 33, 47, 63, 64, 100, 1000])
def test_the_largest_batch_is_found_to_within_an_eighth(limit: int) -> None:
    tried = []

    def attempt(number: int) -> bool:
        tried.append(number)
        return number <= limit

    found, ended_by = batches.search(attempt, lambda _: True, 32, 4096)
    assert limit - max(1, limit // batches.STEPS) <= found <= limit
    assert found in tried
    assert ended_by == "an error"


def test_the_search_ends_at_the_highest_and_with_the_time() -> None:
    assert batches.search(lambda _: True, lambda _: True, 2, 16) == (16, "highest tried")
    assert batches.search(lambda _: True, lambda number: number < 8, 2, 16) == (4, "time")
    assert batches.search(lambda number: number < 8, lambda number: number != 6, 2, 16) == (4, "time")
    assert batches.search(lambda _: True, lambda _: True, 2, 16, lambda _: 100) == (16, "highest tried")
    assert batches.search(lambda _: False, lambda _: True, 8, 16)[0] < 8


@pytest.mark.parametrize("limit", [32, 33, 47, 64, 300, 700, 1000, 1500])
def test_a_prediction_takes_few_trials_and_need_not_be_right(limit: int) -> None:
    tried: list[int] = []

    def attempt(number: int) -> bool:
        tried.append(number)
        return number <= limit

    found, ended_by = batches.search(attempt, lambda _: True, 32, 4096, lambda fits: 700)
    assert limit - max(1, limit // batches.STEPS) <= found <= limit
    assert found in tried
    assert ended_by == "an error"
    if limit == 700:
        assert tried == [32, 700, 787]


class Timed:
    """In place of timing: batches up to a limit fit, a smaller one with whole answers."""

    def __init__(self, most: int, most_whole: int) -> None:
        self.most = {SHORT: most, ANSWER: most_whole}
        self.calls: list[tuple[int, int]] = []

    def __call__(self, model: Any, inputs: Any, tokens: int, **_: Any) -> Any:
        batch = len(inputs["input_ids"])
        self.calls.append((batch, tokens))
        if batch > self.most[tokens]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried\nmore")
        return SimpleNamespace(total=batch / 1000)


@pytest.mark.slow
@pytest.mark.parametrize("label", ["plain", "keep=1/3"])
def test_a_batch_that_does_not_fit_ends_the_search_and_leaves_the_model_clean(
    label: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = Timed(6, 6)
    monkeypatch.setattr(batches, "timed", timed)
    found = batches.largest(context, label, 60)
    assert (found["largest"], found["ended_by"]) == (6, "an error")
    assert {*found["errors"]} == {"CUDA out of memory. Tried"}
    assert found["tried"] == {"2": 0.002, "4": 0.004, "6": 0.006}
    assert found["answers_per_second"] == pytest.approx(1000)
    # The search by short answers, and then two of full length.
    assert timed.calls == [(2, SHORT), (4, SHORT), (8, SHORT), (6, SHORT), (7, SHORT), *[(6, ANSWER)] * 2]
    with illava.accelerate(context.model(SHAPE), keep=0.5):
        pass
    with pytest.raises(RuntimeError, match="no batch ran: no time"):
        batches.largest(context, label, -1)


@pytest.mark.slow
def test_the_largest_batch_is_one_that_answers_in_full(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "timed", Timed(64, 50))
    found = batches.largest(context, "plain", 60)
    assert (found["largest"], found["ended_by"]) == (49, "an error")


def test_repeated_inputs_are_those_of_a_batch(context: Context) -> None:
    trials = batches.Trials(context, "plain", 0)
    want, found = context.inputs(trials.model, 64, 3), trials._inputs(3)
    assert [*want] == [*found]
    assert all(torch.equal(want[name], found[name]) for name in want)


# -- warming up -----------------------------------------------------------------------------------------


def test_graphs_are_recorded_before_anything_is_timed() -> None:
    assert WARM_UP > graphs.CALLS_BEFORE
    card = Context(dataclasses.replace(REHEARSAL, device="cuda"), Budget(100))
    assert card.warm_ups == WARM_UP


@pytest.mark.parametrize("part", ["times", "batches"])
def test_every_variant_is_called_before_the_timed_rounds(
    part: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warm-up round of the timed calls included."""
    called: list[tuple[int, int]] = []
    shown = Timed(100, 100)
    monkeypatch.setattr(Context, "warm_ups", WARM_UP)
    monkeypatch.setattr(contexts, "timed", shown)

    class Began(Exception):
        pass

    def began(model: Any, prompt: Any, variants: Any, sizes: Any, *_: Any) -> Any:
        called.extend((sizes[0], 1 + len(variants)))
        raise Began

    monkeypatch.setattr(run, "run", began)
    with pytest.raises(Began):
        times.measure(context, SHAPE, 64) if part == "times" else batches.at(context, 2)
    batch, variants = called
    assert shown.calls == [(batch, SHORT)] * ((WARM_UP - 1) * variants)


def test_decoding_is_warmed_up_as_often(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    monkeypatch.setattr(Context, "warm_ups", WARM_UP)
    ran: list[str] = []
    monkeypatch.setattr(decoding, "_steps", lambda model, *_: ran.append(model) or [1.0])
    decoding._in_turn(context, {"a": "a", "b": "b"}, {}, {})  # type: ignore[dict-item]
    assert ran[: 2 * WARM_UP] == ["a"] * WARM_UP + ["b"] * WARM_UP
    assert ran[2 * WARM_UP :] == ["a", "b"] * REHEARSAL.decoding_rounds
