"""On a graphics card: the kernels themselves, half precision, several devices. Run with `make test-gpu`.

Tiny random models, as everywhere. What the CPU tests hold to 1e-5 in single precision is held to what the
card's precision leaves; everything else is the same.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

import illava
from illava.methods import Method
from illava.models import tiny_models
from illava.ops.merging import merge
from illava.ops.scoring import column_scores
from illava.ops.selection import diverse_ranking
from tests.battery.test_battery import inputs_of, method_of
from tests.flash import use
from tests.test_exact import logits_of_steps
from tests.tiny import ALL, config, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card"),
]

NAMES = tuple(name for name in ALL if name != "paligemma-2")
# Flash attention takes half precision, heads of a multiple of 8, and no masks of pictures or windows.
FLASH = ("llava_onevision", "llava_next_video", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "internvl")
FLEX = ("llava_onevision", "qwen2_vl")
HAS = {
    "flash_attention_2": importlib.util.find_spec("flash_attn") is not None,
    "flash_attention_3": importlib.util.find_spec("flash_attn_interface") is not None,
}


@pytest.fixture(autouse=True)
def full_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def on_card(inputs: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {
        name: value.to("cuda", dtype) if value.is_floating_point() else value.to("cuda")
        for name, value in inputs.items()
    }


def merged(
    model: nn.Module, name: str, inputs: dict[str, Tensor], method: Method | None = None, **options: object
) -> tuple[Tensor, int]:
    with illava.accelerate(model, method_of(name) if method is None else method) as handle:
        logits, _ = logits_of_steps(model, inputs, **options)
        return logits.float().cpu(), handle.report.final_tokens


@pytest.mark.parametrize("rows", ["single", "batch"])
@pytest.mark.parametrize("name", NAMES)
def test_as_on_the_cpu(name: str, rows: str) -> None:
    model = tiny_model(name)
    inputs = inputs_of(model, "one", rows)
    expected, count = merged(model, name, inputs)
    model, shown = model.to("cuda"), on_card(inputs)
    found, same = merged(model, name, shown)
    assert same == count
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    anew, _ = merged(model, name, shown, use_cache=False)
    torch.testing.assert_close(found, anew, atol=1e-3, rtol=0)


@pytest.mark.parametrize("backend", HAS)
@pytest.mark.parametrize("shown", ["two", "video"])
@pytest.mark.parametrize("name", FLASH)
def test_flash_attention(name: str, shown: str, backend: str) -> None:
    if not HAS[backend]:
        pytest.skip(f"{backend} is not installed")
    if shown == "video" and name == "internvl":
        pytest.skip("takes videos as pictures")
    plain = tiny_model(name).to("cuda", torch.bfloat16)
    inputs = on_card(inputs_of(plain, shown, "single"), torch.bfloat16)
    expected, count = merged(plain, name, inputs)
    plain.set_attn_implementation(backend)
    found, same = merged(plain, name, inputs)
    anew, _ = merged(plain, name, inputs, use_cache=False)
    assert same == count
    # In half precision a choice among near equals may fall otherwise: most logits agree, not all.
    for other in (expected, anew):
        assert ((found - other).abs() < 0.1).float().mean() > 0.9


def wide_heads(name: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A tiny model whose heads have a width of 16: flex attention on a card refuses less."""
    made: Any = config(name)
    text, vision = made.text_config, made.vision_config
    text.num_attention_heads, text.num_key_value_heads = 2, 1
    if "mrope_section" in (text.rope_parameters or {}):
        text.rope_parameters["mrope_section"] = [2, 2, 4]
    if hasattr(vision, "embed_dim"):
        vision.embed_dim, vision.num_heads = 32, 2
    else:
        vision.hidden_size, vision.num_attention_heads = 32, 2
    monkeypatch.setitem(tiny_models.CONFIGS, name, lambda: made)
    return tiny_model(name)


@pytest.mark.parametrize("method", [None, illava.Illava.best(1 / 3), illava.ToMe(keep=1 / 3)])
@pytest.mark.parametrize("name", FLEX)
def test_flex_attention(name: str, method: Method | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = wide_heads(name, monkeypatch).to("cuda")
    inputs = on_card(inputs_of(model, "one", "batch"))
    expected, count = merged(model, name, inputs, method)
    # transformers refuses it for Qwen2-VL, whose code runs with it.
    found, same = merged(use(model, "flex_attention"), name, inputs, method)
    assert same == count
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_scores_and_merging_ignore_autocast_and_tf32() -> None:
    units = torch.randn(2, 96, 64, generator=torch.Generator().manual_seed(0)).to("cuda")
    query, key = units.view(2, 1, 96, 64), units.flip(1).view(2, 1, 96, 64)

    def everything() -> list[Tensor]:
        scores = column_scores(query, key, 0.1)
        merged = merge(units, diverse_ranking(units, scores, 30), 30, reduce="fold", similarity="cosine")
        return [scores, merged.units, merged.kept]

    expected = everything()
    torch.backends.cuda.matmul.allow_tf32 = True
    with torch.autocast("cuda", torch.bfloat16):
        found = everything()
    assert torch.backends.cuda.matmul.allow_tf32
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two graphics cards")
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "qwen3_vl"])
def test_two_cards(name: str, tmp_path) -> None:
    model = tiny_model(name)
    expected, _ = merged(model, name, inputs_of(model, "one", "batch"))
    model.save_pretrained(tmp_path)
    placed: dict[str, int] = {"model": 0, "lm_head": 1, "model.language_model.norm": 1}
    placed |= {f"model.language_model.layers.{i}": int(i >= 2) for i in range(5)}
    spread = AutoModelForImageTextToText.from_pretrained(tmp_path, device_map=placed).eval()
    spread.generation_config = model.generation_config
    found, _ = merged(spread, name, on_card(inputs_of(model, "one", "batch")))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
