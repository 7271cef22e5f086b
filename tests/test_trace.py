"""Traces: what they say of a step is what it did to the model's own vectors, at the patches of the report."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import illava
from illava import methods
from illava.methods.merge_step import MergeStep
from tests.battery.test_battery import RECURRENT, inputs_of
from tests.test_exact import logits_of_steps
from tests.tiny import ALL, WITH_VIDEO, tiny_model

CELLS = [(name, shown, rows) for name in ALL for shown, rows in (("one", "single"), ("two", "batch"))]
CELLS += [(name, "video", "single") for name in WITH_VIDEO]


def method_of(name: str, **options: Any) -> illava.Illava:
    llm = () if name in RECURRENT else (2, 4)
    return illava.Illava(encoder_layers=(1, 3), encoder_keep=0.6, llm_layers=llm, llm_keep=0.6, **options)


def traced(model: nn.Module, inputs: dict[str, Tensor], method: illava.Method) -> illava.Report:
    with torch.no_grad(), illava.accelerate(model, method, trace=True) as handle:
        model(**inputs)
        return handle.report


@pytest.mark.parametrize("reduce", ["recycle", "fold"])
@pytest.mark.parametrize(("name", "shown", "rows"), CELLS)
def test_survivors_are_sums_of_what_came(name, shown, rows, reduce, monkeypatch) -> None:
    model = tiny_model(name)
    seen: list[tuple[MergeStep, Tensor, Tensor]] = []
    inner = MergeStep.reduce

    def watched(step, units):
        merged = inner(step, units)
        left = units.vectors if merged is None else merged.units
        seen.append((step, units.vectors.clone(), left.clone()))
        return merged

    monkeypatch.setattr(MergeStep, "reduce", watched)
    report = traced(model, inputs_of(model, shown, rows), method_of(name, reduce=reduce, recycle=0.3))
    monkeypatch.undo()
    assert [(t.stage, t.layer) for t in report.traces] == [(s.stage, s.layer) for s in report.steps]
    # An encoder's step is called for each run of it, pictures or videos.
    per_step = len(seen) // len(report.steps)
    assert len(seen) == per_step * len(report.steps)
    order = sorted({id(step): n for n, (step, _, _) in enumerate(seen)}.values())
    assert len(order) == len(report.steps)
    for trace, number in zip(report.traces, order, strict=True):
        step = seen[number][0]
        came = torch.cat([before for of, before, _ in seen if of is step])
        left = torch.cat([after for of, _, after in seen if of is step])
        rebuilt = torch.zeros(len(trace.kept), came.shape[1])
        into, source, weight = trace.merge_weights
        rebuilt.index_add_(0, into, weight[:, None] * came[source].float())
        torch.testing.assert_close(rebuilt, left, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "shown", "rows"), CELLS)
def test_patches_are_where_the_report_has_them(name, shown, rows) -> None:
    model = tiny_model(name)
    report = traced(model, inputs_of(model, shown, rows), method_of(name))
    assert len(report.traces) == len(report.steps)
    for number, (step, trace) in enumerate(zip(report.steps, report.traces, strict=True)):
        assert len(trace.kept) == step.after
        assert len(trace.boxes) == step.before
        assert (trace.kept.diff() > 0).all()
        assert trace.merged_into.min() >= -1
        assert torch.equal(trace.merged_into[trace.kept], trace.kept)
        for index, picture in enumerate(report.pictures):
            boxes = trace.boxes[trace.kept][trace.picture[trace.kept] == index]
            assert torch.equal(boxes[~boxes[:, 0].isnan()], picture.kept[number])
        if trace.stage == "encoder" and number == 0:
            assert torch.equal(trace.boxes, torch.cat([picture.all for picture in report.pictures]))
        assert step.after == step.before or trace.scores is not None
    assert (report.traces[0].scores[report.traces[0].kept]).mean() > report.traces[0].scores.mean()


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_nothing_is_computed_otherwise(name, monkeypatch) -> None:
    model = tiny_model(name)
    inputs = inputs_of(model, "two", "batch")

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr("illava.runtime.traces.merge_weights", refuse)
    with illava.accelerate(model, method_of(name)) as handle:
        plain, _ = logits_of_steps(model, inputs)
        assert handle.report.traces == ()
    monkeypatch.undo()
    with illava.accelerate(model, method_of(name), trace=True):
        assert torch.equal(logits_of_steps(model, inputs)[0], plain)


BEHIND = {
    "divprune": methods.DivPrune(keep=0.4),
    "mmtok": methods.MMTok(keep=0.4),
    "visionzip": methods.VisionZip(keep=0.4),
    "prumerge": methods.PruMergePlus(keep=0.4),
    "vispruner": methods.VisPruner(keep=0.4),
    "pool": methods.Pool(keep=0.4),
    "tome": methods.ToMe(keep=0.4),
    "fastv": methods.FastV(keep=0.4),
    "sparsevlm": methods.SparseVLM(keep=0.4),
    "dart": methods.DART(keep=0.4),
    "pyramiddrop": methods.PyramidDrop(keep=0.4),
    "downsample": methods.Downsample(keep=0.4),
    "random": methods.Random(keep=0.4),
}


@pytest.mark.parametrize("method", BEHIND)
def test_every_method_is_traced(method) -> None:
    model = tiny_model("qwen2_vl" if method == "downsample" else "llava")
    report = traced(model, inputs_of(model, "two", "batch"), BEHIND[method])
    assert len(report.traces) == len(report.steps) > 0
    for step, trace in zip(report.steps, report.traces, strict=True):
        if step.stage == "pixels":
            assert trace is None
            continue
        assert (len(trace.boxes), len(trace.kept)) == (step.before, step.after)
        assert set(trace.merge_weights.into.tolist()) == set(range(step.after))
        merges = method in ("visionzip", "prumerge", "pool", "tome", "sparsevlm")
        assert bool(trace.absorbing.any()) == merges


def test_answers_that_are_repeated_are_told_once() -> None:
    model = tiny_model("llava")
    inputs = inputs_of(model, "two", "batch")
    once = traced(model, inputs, method_of("llava"))
    with torch.no_grad(), illava.accelerate(model, method_of("llava"), trace=True) as handle:
        model.generate(**inputs, num_beams=3, max_new_tokens=2)
        beams = handle.report
    for one, other in zip(once.traces, beams.traces, strict=True):
        assert torch.equal(one.boxes, other.boxes) or one.boxes.isnan().any()
        assert torch.equal(one.kept, other.kept)
        assert torch.equal(one.merge_weights.source, other.merge_weights.source)


def test_nothing_goes() -> None:
    model = tiny_model("llava")
    inputs = inputs_of(model, "one", "single")
    method = illava.Illava(encoder_layers=(1,), encoder_keep=0.999, llm_layers=(2,), llm_keep=0.999)
    report = traced(model, inputs, method)
    assert len(report.traces) == 2
    for trace in report.traces:
        assert len(trace.kept) == len(trace.boxes) == report.visual_tokens
        assert not trace.absorbing.any()
    assert traced(model, inputs, illava.Illava(keep=1.0)).traces == ()


def test_it_is_told_in_json() -> None:
    import json

    model = tiny_model("llava_onevision")
    as_json = traced(model, inputs_of(model, "one", "single"), method_of("llava_onevision")).to_dict()
    found = json.loads(json.dumps(as_json, allow_nan=False))["traces"]
    assert [len(trace["kept"]) for trace in found] == [step["after"] for step in as_json["steps"]]
    assert any(box is None for box in found[2]["boxes"])
