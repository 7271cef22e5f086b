"""Quantized checkpoints: linear layers without ordinary weights, and FP8 as transformers reads it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText

import illava
from illava.models.weights import activation_size, stored_bytes
from tests.battery.test_battery import inputs_of, method_of
from tests.inputs.packed import FORMATS, GROUP, Fp8, packed_and_ordinary
from tests.test_exact import logits_of_steps
from tests.tiny import tiny_model

NAMES = ("llava", "qwen2_vl", "qwen3_vl", "internvl", "gemma3")
every_model = pytest.mark.parametrize("name", NAMES)
every_format = pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)


def two(name: str, kind: type) -> tuple[nn.Module, nn.Module]:
    """A model with packed linear layers, and the one with ordinary layers of the same weights."""
    packed, ordinary = tiny_model(name), tiny_model(name)
    assert packed_and_ordinary(packed, kind, ordinary) > 40
    return packed.eval(), ordinary.eval()


@every_model
@every_format
def test_packed_layers_give_what_ordinary_ones_of_the_same_weights_give(name, kind):
    packed, ordinary = two(name, kind)
    inputs = inputs_of(packed, "one", "batch")
    plain, _ = logits_of_steps(packed, inputs)
    assert (plain - logits_of_steps(tiny_model(name), inputs)[0]).abs().max() > 1e-3, "rounded weights"
    with illava.accelerate(packed, keep=1.0):
        assert torch.equal(logits_of_steps(packed, inputs)[0], plain)
    reports, found = [], []
    for model in (packed, ordinary):
        with illava.accelerate(model, method_of(name)) as handle:
            found.append(logits_of_steps(model, inputs)[0])
            reports.append(handle.report)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)
    assert (found[0] - plain)[:, 0].abs().max() > 1e-3, "something must have gone"
    # Costs too: activations and the cache are not quantized.
    assert reports[0].to_dict() == reports[1].to_dict()
    assert torch.equal(logits_of_steps(packed, inputs)[0], plain)


@every_format
def test_plans_and_defaults_need_no_ordinary_weights(kind):
    packed, ordinary = two("qwen2_vl", kind)
    found = [illava.plan(model, keep=1 / 3, picture_size=64) for model in (packed, ordinary)]
    assert found[0].method == found[1].method
    assert found[0].prediction.cost == found[1].prediction.cost
    assert found[0].prediction.weight_bytes < 0.6 * found[1].prediction.weight_bytes
    for model in (packed, ordinary):
        illava.accelerate(model).remove()
    # Nothing is tuned: none of its layers is an ordinary one but the head.
    with illava.accelerate(packed, method_of("qwen2_vl")):
        assert packed.generate(**inputs_of(packed, "one", "single"), max_new_tokens=2).shape[0] == 1


def test_bytes_are_those_that_are_stored():
    packed = nn.Sequential(nn.Embedding(10, 8), Fp8(nn.Linear(16, 8, bias=False)), nn.LayerNorm(8))
    assert activation_size(packed) == 4
    assert activation_size(packed.half()) == 2
    assert activation_size(nn.Sequential(Fp8(nn.Linear(16, 8, bias=False)))) == 4, "its scales"
    # half() has made ordinary weights of those of 8 bits.
    packed[1] = Fp8(nn.Linear(16, 8, bias=False))
    assert stored_bytes(packed, 2) == 2 * 10 * 8 + 16 * 8 + 2 * (16 // GROUP) + 2 * 2 * 8
    packed.register_buffer("qweight", torch.zeros(3, dtype=torch.int32))
    packed.register_buffer("position_ids", torch.zeros(3, dtype=torch.long))
    assert stored_bytes(packed, 2) == 2 * 10 * 8 + 16 * 8 + 2 * (16 // GROUP) + 2 * 2 * 8 + 12


@pytest.mark.filterwarnings("ignore")
def test_an_fp8_checkpoint_on_a_cpu(tmp_path: Path):
    """transformers makes bfloat16 weights of it, since its FP8 kernels need a graphics card."""
    if torch.cuda.is_available():
        pytest.skip("there the weights stay FP8")
    expected = tiny_model("qwen2_vl")
    expected.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    stored, config = load_file(file), json.loads((tmp_path / "config.json").read_text())
    count = 0
    for name, module in expected.named_modules():
        if type(module) is nn.Linear and ".layers." in name and "mlp" in name:
            layer = Fp8(module)
            (key,) = [key for key in stored if key.endswith(f"{name.partition('language_model.')[2]}.weight")]
            stored[key] = layer.weight.data
            stored[key.replace("weight", "weight_scale_inv")] = layer.weight_scale_inv.data
            module.weight = nn.Parameter(layer.rows().bfloat16().float())
            count += 1
    assert count > 10
    save_file(stored, file, metadata={"format": "pt"})
    config["quantization_config"] = {
        "quant_method": "fp8",
        "weight_block_size": [GROUP, GROUP],
        "activation_scheme": "dynamic",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    loaded = loaded.float()
    loaded.generation_config = copy.deepcopy(expected.generation_config)
    for weight in expected.parameters():
        # Not the tables of rotary angles, which stay as they are.
        weight.data = weight.data.bfloat16().float()
    inputs = inputs_of(expected, "one", "batch")
    found = []
    for model in (loaded, expected):
        with illava.accelerate(model, method_of("qwen2_vl")):
            found.append(logits_of_steps(model, inputs)[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)
