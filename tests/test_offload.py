"""Offloaded models: weights that are on "meta" between calls, where accelerate's hooks put them.

Every method on every part that can be offloaded, to the CPU's memory or to disk, gives the logits of the
same method on the model in one piece. The device that computes is the CPU, as on a machine without a GPU.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

import illava
from tests.battery.test_battery import inputs_of, model_of
from tests.battery.test_methods import MADE, refused
from tests.tiny import tiny_model
from tests.watching import blocks, layers

METHODS = {
    **MADE,
    "illava": illava.Illava(keep=0.3),
    "compact": illava.Illava(keep=0.3, experimental={"positions": "compact"}),
}
FAMILIES = ("llava", "qwen2_vl", pytest.param("internvl", marks=pytest.mark.slow))
PARTS = ("block", "encoder", "projector", "embeddings", "first layer", "layer", "LLM", "head", "all")


def path_of(model: nn.Module, part: str) -> str:
    """The name of a module that is to be offloaded."""
    base = model.model
    qwen = hasattr(base, "visual")
    modules = {
        "block": blocks(model)[1],
        "encoder": base.visual if qwen else base.vision_tower,
        "projector": base.visual.merger if qwen else base.multi_modal_projector,
        "embeddings": model.get_input_embeddings(),
        "first layer": layers(model)[0],
        "layer": layers(model)[2],
        "LLM": base.language_model,
        "head": model.lm_head,
        "all": base,
    }
    return next(name for name, module in model.named_modules() if module is modules[part])


def logits_of(model: nn.Module, method: illava.Method, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad(), illava.accelerate(model, method):
        return model(**inputs).logits


@cache
def expected(family: str, name: str) -> Tensor:
    """The logits of the model in one piece with method ``name``."""
    whole = model_of(family, "sdpa")
    return logits_of(whole, METHODS[name], inputs_of(whole, "two", "batch"))


def check(model: nn.Module, family: str) -> None:
    inputs = inputs_of(model_of(family, "sdpa"), "two", "batch")
    for name, method in METHODS.items():
        if not refused(name, family):
            found = logits_of(model, method, inputs)
            torch.testing.assert_close(found, expected(family, name), atol=0, rtol=0, msg=name)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_on_disk(family: str, part: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    path = path_of(model, part)
    model = dispatch_model(model, {"": "cpu", path: "disk"}, main_device="cpu", offload_dir=str(tmp_path))
    if part not in ("embeddings", "head"):  # tied weights stay where the other is
        assert any(weight.device.type == "meta" for weight in model.get_submodule(path).parameters())
    check(model, family)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_in_memory(family: str, part: str) -> None:
    model = tiny_model(family)
    module = model.get_submodule(path_of(model, part))
    cpu_offload(module, execution_device=torch.device("cpu"))
    assert all(weight.device.type == "meta" for weight in module.parameters())
    check(model, family)


def test_as_from_pretrained_places_it(tmp_path: Path) -> None:
    """The settings of the documentation: a device map with a layer on disk."""
    tiny_model("llava").save_pretrained(tmp_path / "model")
    parts = (
        "model.vision_tower",
        "model.multi_modal_projector",
        "model.language_model.embed_tokens",
        "lm_head",
    )
    places = dict.fromkeys((*parts, "model.language_model.norm", "model.language_model.rotary_emb"), "cpu")
    places |= {f"model.language_model.layers.{i}": "disk" if i == 2 else "cpu" for i in range(5)}
    model = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload"
    )
    assert any(weight.device.type == "meta" for weight in model.parameters())
    check(model.eval(), "llava")
