"""Flash attention: the same logits as SDPA's. A CPU has no such kernels: their definition stands in."""

from __future__ import annotations

import pytest
import torch
import transformers

import illava
from tests.battery.test_battery import inputs_of, method_of
from tests.flash import Kernels, kernels, use
from tests.test_exact import logits_of_steps
from tests.tiny import ALL, MIXED_WINDOWS, WITH_VIDEO, tiny_model

__all__ = ["kernels"]

REFUSED = ("llava-windows", "gemma3", "paligemma", "paligemma-2", *MIXED_WINDOWS)
# That release hands flash attention Pixtral's two-dimensional positions, of which it makes nothing sensible.
OLD = transformers.__version__.startswith("5.19.")
PIXTRAL = ("llava-pixtral", "mistral3", "lighton_ocr")
NAMES = tuple(name for name in ALL if name not in REFUSED and not (OLD and name in PIXTRAL))
# Two kernels of the CPU round differently, and GLM-4V has norms behind its layers too.
CLOSE = {"qwen3_5": 1e-3, "qwen3_5_moe": 1e-3, "glm4v": 3e-5, "glm46v": 3e-5, "glm_ocr": 3e-5}
# 1.4e-5 in float32, and 0 in float64.
CLOSE["llava-dinov2-registers"] = 3e-5

cells = [
    pytest.param(name, shown, rows, id=f"{name}-{shown}-{rows}")
    for name in NAMES
    for shown, rows in (("two", "single"), ("one", "batch"), ("video", "single"))
    if shown != "video" or name in WITH_VIDEO
]


@pytest.mark.parametrize(("name", "shown", "rows"), cells)
def test_as_with_sdpa(name: str, shown: str, rows: str, kernels: Kernels) -> None:
    plain, flash = tiny_model(name), use(tiny_model(name), "flash_attention_2")
    inputs = inputs_of(plain, shown, rows)
    with illava.accelerate(plain, method_of(name)) as handle:
        expected, _ = logits_of_steps(plain, inputs)
        counts = handle.report.final_tokens
    with illava.accelerate(flash, method_of(name)) as handle:
        merged, _ = logits_of_steps(flash, inputs)
        anew, _ = logits_of_steps(flash, inputs, use_cache=False)
        assert handle.report.final_tokens == counts
    assert set(kernels.names) == {"flash_attention_2"}, "the kernel is looked up by the user's own choice"
    torch.testing.assert_close(merged, expected, atol=CLOSE.get(name, 1e-5), rtol=0)
    torch.testing.assert_close(anew, merged, atol=CLOSE.get(name, 1e-5), rtol=0)


@pytest.mark.parametrize("name", [name for name in ("qwen2_vl", "llava-pixtral") if name in NAMES])
def test_packed_pictures_stay_one_call(name: str, kernels: Kernels) -> None:
    """Sequence boundaries go to the kernel, at the layers that are scored too."""
    model = use(tiny_model(name), "flash_attention_2")
    with illava.accelerate(model, method_of(name)), torch.no_grad():
        model(**inputs_of(model, "two", "single"))
    assert len([call for call in kernels.packed if len(call) == 3]) == 5, "one of two pictures a block"
    assert len({call[-1] for call in kernels.packed if len(call) == 3}) == 3, "two merges"


def test_gaps_in_positions_are_not_taken_for_packed_prompts(kernels: Kernels) -> None:
    model = use(tiny_model("llava"), "flash_attention_2")
    with illava.accelerate(model, method_of("llava")), torch.no_grad():
        model(**inputs_of(model, "two", "single"))
    assert not kernels.packed
    assert kernels.dense == 10


@pytest.mark.parametrize("name", [name for name in REFUSED if name in ALL])
def test_masks_that_flash_attention_cannot_take_are_refused(name: str) -> None:
    model = use(tiny_model(name), "flash_attention_2")
    with pytest.raises(illava.UnsupportedError, match="sdpa"):
        illava.accelerate(model, method_of(name))
    assert illava.accelerate(model, keep=1.0)


def test_another_backend_in_the_middle_is_refused(kernels: Kernels) -> None:
    model = tiny_model("qwen2_vl")
    inputs = inputs_of(model, "one", "single")
    with illava.accelerate(model, method_of("qwen2_vl")), torch.no_grad():
        use(model, "flash_attention_2")
        with pytest.raises(illava.UnsupportedError, match="accelerate again"):
            model(**inputs)


def test_flash_in_the_language_model_alone(kernels: Kernels) -> None:
    plain, mixed = tiny_model("qwen2_vl"), tiny_model("qwen2_vl")
    use(mixed.model.language_model, "flash_attention_2")
    inputs = inputs_of(plain, "one", "batch")
    with illava.accelerate(plain, method_of("qwen2_vl")), illava.accelerate(mixed, method_of("qwen2_vl")):
        expected, merged = (logits_of_steps(model, inputs)[0] for model in (plain, mixed))
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=0)
