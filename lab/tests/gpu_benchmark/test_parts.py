"""Each part against something known: a tiny model's steps, closed forms, made-up events of a profiler."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from illava_lab.benchmarks.gpu.budget import Budget
from illava_lab.benchmarks.gpu.context import Context
from illava_lab.benchmarks.gpu.parts import ceilings, equality, profile, shares
from illava_lab.benchmarks.gpu.settings import REHEARSAL

import illava
from illava.methods.merge_step import MergeStep
from illava.models.tiny_models import tiny_model
from illava.models.tiny_prompts import picture, prompt
from illava.ops import selection
from illava.ops.merging import merge_diverse


@pytest.fixture
def context() -> Context:
    return Context(REHEARSAL, Budget(100))


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


def test_another_selection_of_merge_diverse_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))

    def other(units: torch.Tensor, scores: torch.Tensor, p: int, **options: Any) -> Any:
        return merge_diverse(units, scores if next(calls) % 2 == 0 else 1 - scores, p, **options)

    monkeypatch.setattr(equality, "merge_diverse", other)
    found = equality.operations(torch.device("cpu"), 30, 16, "random", "fp32")
    assert found["selected"] < equality.EQUAL
    assert found["failure"]


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


@pytest.mark.parametrize("merging", [{}, {"reduce": "fold", "similarity": "cosine"}])
def test_every_step_is_marked_and_nothing_changes(merging: dict[str, Any]) -> None:
    """Both ways to merge: what ``keep=`` uses ranks without :func:`diverse_ranking`."""
    model = tiny_model("llava_onevision")
    inputs = prompt(model, [([5, 6, 7, 8], [picture(model, (40, 30))])])
    method = illava.Illava(
        encoder_layers=(1, 3), encoder_keep=0.7, llm_layers=(2, 4), llm_keep=0.7, select="diverse", **merging
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
