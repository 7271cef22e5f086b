"""Quantized checkpoints: linear layers without ordinary weights, and FP8 as transformers reads it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, CompressedTensorsConfig

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


def write(folder: Path, pack: Callable[[Tensor], tuple[dict[str, Tensor], Tensor]], config: Any) -> nn.Module:
    """Save a tiny model with quantized MLPs in its LLM; returns the model with these weights in floats.

    ``pack``: from weights, the tensors that are stored instead by suffix, and what these weights then are.
    """
    expected = tiny_model("qwen2_vl")
    expected.save_pretrained(folder)
    file, count = folder / "model.safetensors", 0
    stored = load_file(file)
    for name, module in expected.named_modules():
        if type(module) is nn.Linear and ".layers." in name and "mlp" in name:
            tail = name.partition("language_model.")[2]
            (key,) = [key for key in stored if key.endswith(f"{tail}.weight")]
            tensors, weight = pack(stored.pop(key))
            stored |= {key.removesuffix("weight") + suffix: tensor for suffix, tensor in tensors.items()}
            module.weight = nn.Parameter(weight)
            count += 1
    assert count > 10
    save_file(stored, file, metadata={"format": "pt"})
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, "quantization_config": config}))
    return expected


def check_loaded(loaded: nn.Module, expected: nn.Module) -> None:
    loaded.generation_config = copy.deepcopy(expected.generation_config)
    inputs, found = inputs_of(expected, "one", "batch"), []
    for model in (loaded.eval(), expected):
        with illava.accelerate(model, method_of("qwen2_vl")) as handle:
            found.append(logits_of_steps(model, inputs)[0])
            assert handle.report.final_tokens < handle.report.visual_tokens
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_an_fp8_checkpoint_on_a_cpu(tmp_path: Path):
    """transformers makes bfloat16 weights of it, since its FP8 kernels need a graphics card."""
    if torch.cuda.is_available():
        pytest.skip("there the weights stay FP8")

    def pack(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        linear = nn.Linear(*weight.T.shape, bias=False)
        linear.weight = nn.Parameter(weight)
        layer = Fp8(linear)
        return {"weight": layer.weight.data, "weight_scale_inv": layer.weight_scale_inv.data}, layer.rows()

    config = {"quant_method": "fp8", "weight_block_size": [GROUP, GROUP], "activation_scheme": "dynamic"}
    expected = write(tmp_path, pack, config)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    for weight in expected.parameters():
        # Not the tables of rotary angles, which stay as they are.
        weight.data = weight.data.bfloat16().float()
    check_loaded(loaded.float(), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dequantize", [False, True])
def test_a_checkpoint_of_compressed_tensors(tmp_path: Path, dequantize: bool):
    """Int8 weights with a scale for each output."""
    pytest.importorskip("compressed_tensors", reason="needs compressed-tensors")

    def pack(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scale = weight.abs().amax(1, keepdim=True) / 127
        numbers = (weight / scale).round()
        # Four inputs in an int32, from the lowest bits.
        four = (numbers + 128).long().view(len(weight), -1, 4)
        words = sum(four[..., i] << (8 * i) for i in range(4)).to(torch.int32)
        stored = {"weight_packed": words, "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}
        return stored, numbers * scale

    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"mlp": {"targets": ["re:.*layers.*mlp.*_proj"], "weights": weights}},
        "ignore": ["lm_head"],
    }
    expected = write(tmp_path, pack, config)
    options = CompressedTensorsConfig(config_groups=None, dequantize=dequantize)
    loaded = AutoModelForImageTextToText.from_pretrained(
        tmp_path, dtype=torch.float32, quantization_config=options
    )
    check_loaded(loaded, expected)
