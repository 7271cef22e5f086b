"""Each part against something known: a tiny model's steps, closed forms, made-up events of a profiler."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from illava_lab.benchmarks.gpu.budget import Budget
from illava_lab.benchmarks.gpu.context import Context
from illava_lab.benchmarks.gpu.parts import batches, ceilings, equality, profile, shares, suite
from illava_lab.benchmarks.gpu.settings import REHEARSAL, add_tiny_shapes

import illava
from illava.methods.merge_step import MergeStep
from illava.models.tiny_models import tiny_model
from illava.models.tiny_prompts import picture, prompt
from illava.ops import selection


@pytest.fixture
def context() -> Context:
    return Context(REHEARSAL, Budget(100))


# -- suite ---------------------------------------------------------------------------------------------

TESTS = """
import time, pytest
def test_passes(): pass
def test_fails(): assert 1 == 2
@pytest.mark.skip(reason="no card")
def test_skipped(): pass
"""


def test_passed_failed_and_skipped_are_counted_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    found = suite.run(60, "test_it.py", tmp_path)
    assert (found["passed"], found["skipped"]) == (1, {"no card": 1})
    assert [*found["failed"]] == ["test_it::test_fails"]
    assert "assert 1 == 2" in found["failed"]["test_it::test_fails"]
    assert found["failure"] == "exit code 1, 1 failed: test_it::test_fails"
    (tmp_path / "test_it.py").write_text("def test_passes(): pass")
    assert suite.run(60, "test_it.py", tmp_path)["failure"] is None


HANGS = """
import os, signal, time
def test_passes(): pass
def test_hangs():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
def test_later(): pass
"""


def test_a_suite_that_was_interrupted_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(HANGS)
    found = suite.run(60, "test_it.py", tmp_path)
    assert found["passed"] == 1
    assert found["failure"] == "interrupted after test_it::test_passes; the limit is 60 s"


def test_a_suite_ends_with_its_time_limit(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import time\ntime.sleep(60)")
    found = suite.run(1, "test_it.py", tmp_path)
    assert "passed" not in found or found["passed"] == 0
    assert found["failure"]


def test_a_rehearsal_collects(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    found = suite.collect(60, "test_it.py", tmp_path)
    assert (found["collected"], found["run"], found["failure"]) == (3, 0, None)
    (tmp_path / "test_it.py").write_text("import nothing_of_this_name")
    assert "nothing_of_this_name" in suite.collect(60, "test_it.py", tmp_path)["failure"]


# -- equality ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "ties"])
def test_equal_operations_agree_and_others_fail(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    found = equality.operations(cpu, 30, 16, kind, "fp32")
    assert found["failure"] is None
    assert found["selected"] == 1
    assert {*found["merged"].values()} == {1.0}
    assert len(found["merged"]) == 8
    calls = iter(range(100))
    # The second device takes the lowest-scored units.
    monkeypatch.setattr(
        equality,
        "diverse_ranking",
        lambda units, scores, p: selection.diverse_ranking(
            units, scores if next(calls) % 2 == 0 else 1 - scores, p
        ),
    )
    assert equality.operations(cpu, 30, 16, kind, "fp32")["failure"]
    assert equality.operations(cpu, 30, 16, kind, "bf16")["failure"] is None


def test_ties_are_ties() -> None:
    units, scores = equality._units(31, 4, "ties")
    assert torch.equal(units[:, 0:30:2], units[:, 1:31:2])
    assert torch.equal(scores[:, 0:30:2], scores[:, 1:31:2])


def test_models_that_differ_fail(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    assert equality.tiny(context, "qwen2_vl")["failure"] is None
    copied = equality._copy

    def other(model: Any, device: Any, dtype: Any) -> Any:
        made = copied(model, device, dtype)
        next(made.parameters()).data.mul_(1.5)
        return made

    monkeypatch.setattr(equality, "_copy", other)
    found = equality.tiny(context, "qwen2_vl")
    assert found["failure"]
    assert found["largest_difference"]["plain"] > equality.CLOSE


def test_the_share_of_equal_choices_is_that_of_the_worst_step() -> None:
    kept = [torch.tensor([0, 2, 4, 6]), torch.tensor([1, 3])]
    other = [torch.tensor([0, 2, 4, 7]), torch.tensor([0, 3])]
    assert equality._equal(kept, kept) == 1
    assert equality._equal(kept, other) == 0.5


# -- shares --------------------------------------------------------------------------------------------


class Counting:
    """A clock that advances by one with every mark."""

    def __init__(self) -> None:
        self.now = 0

    def mark(self) -> int:
        self.now += 1
        return self.now


def test_every_step_is_marked_and_nothing_changes() -> None:
    model = tiny_model("llava_onevision")
    inputs = prompt(model, [([5, 6, 7, 8], [picture(model, (40, 30))])])
    method = illava.Illava(
        encoder_layers=(1, 3), encoder_keep=0.7, llm_layers=(2, 4), llm_keep=0.7, select="diverse"
    )
    before = MergeStep.observe_llm, selection.diverse_ranking
    with illava.accelerate(model, method) as handle, torch.no_grad():
        want = model(**inputs).logits
        with shares.recorded(Counting()) as spans:
            found = model(**inputs).logits
        assert len(handle.report.steps) == 4
    assert torch.equal(found, want)
    assert (MergeStep.observe_llm, selection.diverse_ranking) == before
    assert len(spans[shares.REDUCTION]) == 4
    assert len(spans[shares.SCORING]) >= 4
    inside = [
        any(begin < start and end < stop for begin, stop in spans[shares.REDUCTION])
        for start, end in spans[shares.SELECTION]
    ]
    assert inside
    assert all(inside), "selection is a part of the reduction"


# -- batches -------------------------------------------------------------------------------------------


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
    assert batches.search(lambda _: False, lambda _: True, 8, 16)[0] < 8


@pytest.mark.parametrize("label", ["plain", "keep=1/3"])
def test_a_batch_that_does_not_fit_ends_the_search_and_leaves_the_model_clean(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tiny_shapes()
    shape = "tiny-qwen2_5_vl"
    context = Context(dataclasses.replace(REHEARSAL, shape=shape, size=64, answer=2, most=64), Budget(100))

    def timed(model: Any, inputs: Any, tokens: int, **_: Any) -> Any:
        batch = len(inputs["input_ids"])
        assert tokens == 2
        if batch > 6:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried\nmore")
        return SimpleNamespace(total=batch / 1000)

    monkeypatch.setattr(batches, "timed", timed)
    found = batches.largest(context, label, 60)
    assert (found["largest"], found["ended_by"]) == (6, "an error")
    assert {*found["errors"]} == {"CUDA out of memory. Tried"}
    assert found["tried"] == {"2": 0.002, "4": 0.004, "6": 0.006}
    assert found["answers_per_second"] == pytest.approx(1000)
    with illava.accelerate(context.model(shape), keep=0.5):
        pass
    with pytest.raises(RuntimeError, match="no batch ran: no time"):
        batches.largest(context, label, -1)


# -- profile -------------------------------------------------------------------------------------------


def test_kernels_are_counted_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.autograd import DeviceType

    def event(name: str, start: float, end: float, device: Any = DeviceType.CUDA, note: bool = False) -> Any:
        span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        return SimpleNamespace(name=name, device_type=device, time_range=span, is_user_annotation=note)

    made_up = [
        event("gemm", 0, 500_000),
        event("softmax", 500_000, 600_000),
        event("gemm", 700_000, 900_000),
        event("Memcpy DtoH", 900_000, 1_000_000),
        event("a range", 0, 900_000, note=True),
        event("cudaLaunchKernel", 0, 1, DeviceType.CPU),
        event("cuLaunchKernelEx", 0, 1, DeviceType.CPU),
        event("cudaStreamSynchronize", 0, 1, DeviceType.CPU),
    ]

    class Profile:
        def __init__(self, **_: Any) -> None: ...
        def __enter__(self) -> Any:
            return SimpleNamespace(events=lambda: made_up)

        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found = profile.kernels(lambda: None)
    assert (found["count"], found["launches"], found["copies"]) == (3, 2, 1)
    assert found["busy_seconds"] == pytest.approx(0.8)
    assert found["span_seconds"] == pytest.approx(1.0)
    assert [(t["name"], t["count"]) for t in found["top"]] == [("gemm", 2), ("softmax", 1)]
    assert found["failure"] is None


def test_waits_are_counted_by_the_place_that_caused_them(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with profile.synchronizing() as found:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert modes == ["warn", "default"]
    (place,) = found
    assert place.startswith("test_parts.py:")
    assert found[place] == 3


def test_operators_that_would_wait_are_counted() -> None:
    with profile.Operators() as found:
        bool(torch.ones(2).any())
        torch.ones(3)[torch.tensor([True, False, True])]
        torch.ones(3) + 1
    assert sum(found.waits.values()) >= 2
    assert all(place.startswith("test_parts.py:") for place in found.waits)
    assert found.count["aten.add.Tensor"] == 1


def test_ceilings_are_work_over_the_median_time(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "_median", lambda clock, call: call() is not None and 0.5)
    found = ceilings.measure(context)
    side = REHEARSAL.ceiling_side
    assert found["flops_per_second"] == 4 * side**3
    # 32 matrices of bfloat16, read and written.
    assert found["bytes_per_second"] == 2 * 2 * 32 * side**2 * 2
