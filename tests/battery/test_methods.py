"""Every method on families that differ in how they are built, as test_battery.py does for iLLaVA.

Tiny random models. With everything kept, and after the handle is taken off, the model is the plain one bit
for bit; a run with a cache equals one that computes all anew at every step; a row of a padded batch equals
its run alone; budgets are what docs/methods.md says; gradients are the same with checkpoints and without.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

import illava
from illava.methods import Method, methods, presets
from tests.battery.test_battery import CLOSE, RECURRENT, inputs_of, model_of, rows_of
from tests.test_exact import logits_of_steps
from tests.test_training import backward, checkpointed
from tests.tiny import IMAGE, VIDEO, WITH_VIDEO, prompt, tiny_model

KEEP = 0.3
MADE: dict[str, Method] = {
    "fastv": illava.FastV(keep=KEEP),
    "pyramiddrop": illava.PyramidDrop(keep=KEEP),
    "sparsevlm": illava.SparseVLM(keep=KEEP),
    "dart": illava.DART(keep=KEEP),
    "visionzip": illava.VisionZip(keep=KEEP),
    "prumerge+": illava.PruMergePlus(keep=KEEP),
    "fastervlm": illava.FasterVLM(keep=KEEP),
    "vispruner": illava.VisPruner(keep=KEEP),
    "divprune": illava.DivPrune(keep=KEEP),
    "mmtok": illava.MMTok(keep=KEEP),
    "tome": illava.ToMe(keep=KEEP),
    "random": illava.Random(keep=KEEP),
    "random in the llm": illava.Random(keep=KEEP, stage="llm"),
    "pool": illava.Pool(keep=KEEP),
    "downsample": illava.Downsample(keep=KEEP),
    "illava-best": illava.Illava.best(keep=KEEP),
    "illava-authors-code": illava.Illava.authors_code(keep=KEEP),
    "compose": illava.Compose((illava.FasterVLM(keep=0.6), illava.FastV(keep=KEEP))),
}
NAMES = (
    "llava",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
    "internvl",
    "mistral3",
    "gemma3",
)
IN_THE_LLM = ("fastv", "pyramiddrop", "sparsevlm", "dart", "random in the llm", "compose")
SMALLER = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
# Of each segment exactly, but where a grid decides, or line ends are added behind the projector.
# The authors' code restores groups, as many as there happen to be.
EXACT = tuple(name for name in MADE if name not in ("pool", "downsample", "illava-authors-code"))


def refused(method: str, family: str) -> str | None:
    """Why a method does not go with a family: part of what the error says."""
    if family in RECURRENT and method in IN_THE_LLM:
        return "recurrent"
    if method == "downsample" and family not in SMALLER:
        return "give smaller pictures"
    if method == "illava-authors-code" and family in ("internvl", "gemma3"):
        return "single patches cannot be ranked"
    if family == "gemma3" and method in ("pyramiddrop", "pool"):
        return "renumbered positions"
    return None


def counts(inputs: dict[str, torch.Tensor]) -> list[int]:
    """Lengths of all runs of placeholders."""
    out = []
    for row in inputs["input_ids"].tolist():
        length = 0
        for token in [*row, 0]:
            if token not in (IMAGE, VIDEO) and length:
                out.append(length)
            length = length + 1 if token in (IMAGE, VIDEO) else 0
    return out


def segments(name: str, family: str, inputs: dict[str, torch.Tensor]) -> list[int]:
    """Units among which a method chooses: of a tile or picture before the LLM, of a run in it."""
    if name in IN_THE_LLM or name in ("divprune", "mmtok", "random", "illava-best"):
        return counts(inputs)
    if family == "internvl":
        return [9] * len(inputs["pixel_values"])
    if family == "mistral3":
        return [h * w // 64 for h, w in inputs["image_sizes"].tolist()]
    return counts(inputs)


def test_every_method_is_here():
    made = {method.name for method in MADE.values()} | {"illava"}
    assert made == set(methods())
    assert set(presets()) <= set(MADE)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("name", MADE)
def test_a_batch_of_prompts(name, family):
    model, method = model_of(family, "sdpa"), MADE[name]
    reason = refused(name, family)
    if reason:
        with pytest.raises(illava.UnsupportedError, match=reason):
            illava.accelerate(model, method)
        return
    inputs, close = inputs_of(model, "two", "batch"), CLOSE.get(family, 1e-4)
    plain, _ = logits_of_steps(model, inputs)
    if (name, family) == ("pool", "qwen2_5_vl"):
        with illava.accelerate(model, method), pytest.raises(illava.UnsupportedError, match="raster order"):
            model(**inputs)
        return
    with illava.accelerate(model, method) as handle:
        merged, _ = logits_of_steps(model, inputs)
        report = handle.report
        anew, _ = logits_of_steps(model, inputs, use_cache=False)
        for index, row in enumerate(rows_of(model, "two", "batch")):
            alone, _ = logits_of_steps(model, prompt(model, [row]))
            torch.testing.assert_close(merged[:, index], alone[:, 0], atol=close, rtol=0)
    assert merged.isfinite().all()
    torch.testing.assert_close(merged, anew, atol=close, rtol=0)
    assert torch.equal(logits_of_steps(model, inputs)[0], plain), "undone"
    assert (merged - plain)[:, 0].abs().max() > 1e-3, "something must have gone"
    runs = counts(inputs)
    assert report.visual_tokens == sum(runs)
    assert len(str(report).splitlines()) == 2 + len(report.steps)
    for picture in report.pictures:
        assert len(picture.kept) == len(report.steps)
    assert report.final_tokens < sum(runs)
    lines = family == "llava_onevision" and not (set(report.steps) and report.steps[-1].stage == "llm")
    if name in EXACT and not lines:
        assert report.final_tokens == sum(max(1, round(KEEP * n)) for n in segments(name, family, inputs))
    if name != "compose":
        with illava.accelerate(model, dataclasses.replace(method, keep=1.0)):
            assert torch.equal(logits_of_steps(model, inputs)[0], plain), "all kept"


@pytest.mark.parametrize("family", [family for family in NAMES if family in WITH_VIDEO])
@pytest.mark.parametrize("name", MADE)
def test_a_video(name, family):
    model, method = model_of(family, "eager"), MADE[name]
    if refused(name, family) or (name, family) == ("pool", "qwen2_5_vl"):
        return
    inputs, close = inputs_of(model, "video", "single"), CLOSE.get(family, 1e-4)
    with illava.accelerate(model, method) as handle:
        merged, _ = logits_of_steps(model, inputs)
        report = handle.report
        anew, _ = logits_of_steps(model, inputs, use_cache=False)
    assert merged.isfinite().all()
    torch.testing.assert_close(merged, anew, atol=close, rtol=0)
    assert report.final_tokens < report.visual_tokens == sum(counts(inputs))


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("name", MADE)
def test_checkpoints_change_no_gradient(name, family):
    if refused(name, family):
        return
    model = tiny_model(family).train()
    inputs = inputs_of(model, "two", "single")
    with illava.accelerate(model, MADE[name]):
        expected = backward(model, inputs)
        found = backward(checkpointed(model), inputs)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        assert gradient.isfinite().all(), parameter
        torch.testing.assert_close(found[parameter], gradient, atol=1e-6, rtol=1e-4, msg=parameter)
