"""Flex attention: the same logits as SDPA's. Uncompiled, which is enough; `make test-slow` compiles it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import transformers.integrations.flex_attention as flex
import transformers.masking_utils as masking
from torch.nn.attention.flex_attention import flex_attention

import illava
from illava.methods import Method
from tests.battery.naive import encoder_of
from tests.battery.test_battery import inputs_of, method_of
from tests.flash import use
from tests.test_exact import logits_of_steps
from tests.tiny import ALL, WITH_VIDEO, tiny_model

# Idefics and DINOv2 mask their patches even where all are there. Pictures that see themselves whole need
# masks that are made ready. Gemma 2 has eager attention alone.
MASKED = ("idefics3", "smolvlm", "idefics2", "aria", *(name for name in ALL if "dinov2" in name))
REFUSED = (*MASKED, "gemma3", "paligemma", "paligemma-2")
# Two kernels of the CPU round differently, and GLM-4V has norms behind its layers too.
CLOSE = {"qwen3_5": 1e-3, "qwen3_5_moe": 1e-3, "glm4v": 3e-5, "glm46v": 3e-5, "glm_ocr": 3e-5}


QUICK = (
    ("llava_onevision", "one"),
    ("llava-windows", "two"),
    ("qwen2_vl", "one"),
    ("qwen3_vl", "video"),
    ("internvl", "two"),
)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    made = masking.create_block_mask
    monkeypatch.setattr(masking, "create_block_mask", lambda **kwargs: made(**{**kwargs, "_compile": False}))
    attend = partial(flex_attention)
    monkeypatch.setattr(
        flex, "compile_friendly_flex_attention", lambda *args, training, **kwargs: attend(*args, **kwargs)
    )


def check(name: str, shown: str, rows: str, method: Method | None = None) -> None:
    plain, other = tiny_model(name), use(tiny_model(name), "flex_attention")
    inputs, method = inputs_of(plain, shown, rows), method_of(name) if method is None else method
    with illava.accelerate(plain, method):
        expected, _ = logits_of_steps(plain, inputs)
    with illava.accelerate(other, method):
        merged, _ = logits_of_steps(other, inputs)
    real = slice(None) if rows == "single" else inputs["attention_mask"][:, -1].bool()
    torch.testing.assert_close(merged[:, real], expected[:, real], atol=CLOSE.get(name, 1e-5), rtol=0)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("name", "shown", "rows"),
    [
        pytest.param(
            name,
            shown,
            rows,
            id=f"{name}-{shown}-{rows}",
            marks=() if (name, shown) in QUICK else pytest.mark.slow,
        )
        for name in ALL
        for shown, rows in (("two", "single"), ("one", "batch"), ("video", "single"))
        if name not in REFUSED and (shown != "video" or name in WITH_VIDEO)
    ],
)
def test_as_with_sdpa(name: str, shown: str, rows: str, uncompiled: None) -> None:
    check(name, shown, rows)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("method", [illava.Illava.best(1 / 3), illava.ToMe(keep=1 / 3)], ids=lambda m: m.name)
@pytest.mark.parametrize("rows", ["single", "batch"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl"])
def test_attention_that_knows_sizes(name: str, rows: str, method: Method, uncompiled: None) -> None:
    check(name, "one", rows, method)
    model = tiny_model(name)
    inputs, found = inputs_of(model, "one", rows), []
    for sized in (method, replace(method, proportional=False if method.name == "tome" else None)):
        with illava.accelerate(model, sized):
            found.append(logits_of_steps(model, inputs)[0])
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.slow
def test_compiled_as_with_sdpa() -> None:
    # On a CPU torch writes no valid code for shapes that vary, or for masks of padding, merging or not.
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        check("llava", "one", "single")


@pytest.mark.parametrize("name", MASKED)
def test_masked_patches_are_refused(name: str, uncompiled: None) -> None:
    model = use(tiny_model(name), "flex_attention")
    inputs = inputs_of(model, "one", "single")
    with (
        illava.accelerate(model, method_of(name)),
        pytest.raises(illava.UnsupportedError, match="'vision_config': 'sdpa'"),
    ):
        model(**inputs)
    use(encoder_of(model), "sdpa")
    with illava.accelerate(model, method_of(name)) as handle:
        logits_of_steps(model, inputs)
        assert handle.report.final_tokens < handle.report.visual_tokens


@pytest.mark.parametrize("name", ["gemma3", "paligemma"])
def test_masks_that_are_made_ready_are_refused(name: str, uncompiled: None) -> None:
    model = tiny_model(name)
    inputs = inputs_of(model, "one", "single")
    with torch.no_grad(), illava.accelerate(model, method_of(name)):
        use(model, "flex_attention")
        with pytest.raises(illava.UnsupportedError, match="sdpa"):
            model(**inputs)
    with pytest.raises(illava.UnsupportedError, match="sdpa"):
        illava.accelerate(use(tiny_model(name), "flex_attention"), method_of(name))
