"""Models as they are loaded: quantised by three libraries, partly left on disk by accelerate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, QuantoConfig, TorchAoConfig

import illava
from tests.battery.test_battery import inputs_of, method_of
from tests.test_exact import logits_of_steps
from tests.tiny import tiny_model

NAMES = ("llava_onevision", "qwen2_vl", "qwen3_vl", "internvl", "gemma3")


def _torchao() -> TorchAoConfig:
    # Not among the tools that `make test` installs: it warns whenever transformers is imported beside it.
    quantisation = pytest.importorskip("torchao.quantization", reason="needs torchao: pip install torchao")
    return TorchAoConfig(quantisation.Int8WeightOnlyConfig())


def _quanto() -> QuantoConfig:
    pytest.importorskip("optimum.quanto", reason="needs quanto: pip install optimum-quanto")
    return QuantoConfig(weights="int8")


QUANTISED = {
    "bnb int8": lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0),
    "bnb nf4": lambda: BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    ),
    "torchao int8": _torchao,
    "quanto int8": _quanto,
}


def loaded(name: str, folder: Path, **options: object) -> nn.Module:
    tiny_model(name).save_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, **options)
    # Not saved with a config.
    model.generation_config.update(**tiny_model(name).generation_config.to_dict())
    return model.eval()


def check(model: nn.Module, name: str, close: float = 1e-5) -> Tensor:
    """The properties that hold in full precision hold here too; returns the merged logits."""
    inputs = inputs_of(model, "one", "batch")
    plain, _ = logits_of_steps(model, inputs)
    with illava.accelerate(model, keep=1.0):
        assert torch.equal(logits_of_steps(model, inputs)[0], plain)
    with illava.accelerate(model, method_of(name)) as handle:
        merged, _ = logits_of_steps(model, inputs)
        anew, _ = logits_of_steps(model, inputs, use_cache=False)
        assert handle.report.final_tokens < handle.report.visual_tokens
    torch.testing.assert_close(merged, anew, atol=close, rtol=0)
    assert torch.equal(logits_of_steps(model, inputs)[0], plain)
    return merged


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("name", NAMES)
def test_quantised(name: str, kind: str, tmp_path: Path) -> None:
    model = loaded(name, tmp_path, quantization_config=QUANTISED[kind]())
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # That kernel takes no maps as narrow as these.
            module.support_avx512bf16_for_cpu = False
    weights = [m.weight for m in model.modules() if hasattr(m, "in_features")]
    assert any(w.dtype != torch.float32 or type(w.data) is not Tensor for w in weights)
    # Activations are rounded to int8 as well, where a last bit makes a step of a 127th.
    check(model, name, 5e-2 if kind == "bnb int8" else 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_on_disk(name: str, tmp_path: Path) -> None:
    plain = tiny_model(name)
    folder = tmp_path / "model"
    placed: dict[str, str | int] = {"lm_head": "cpu"}
    placed |= {f"model.{part}": "cpu" for part, _ in plain.model.named_children() if part != "language_model"}
    placed |= {f"model.{part}": "cpu" for part, _ in plain.model.named_parameters(recurse=False)}
    inner = "model.language_model"
    children = [part for part, _ in plain.model.language_model.named_children() if part != "layers"]
    placed |= {f"{inner}.{part}": "cpu" for part in children}
    placed |= {f"{inner}.layers.{i}": "disk" if i >= 2 else "cpu" for i in range(5)}
    model = loaded(name, folder, device_map=placed, offload_folder=tmp_path / "offload")
    assert model.model.language_model.layers[3].mlp.up_proj.weight.device.type == "meta"
    with illava.accelerate(plain, method_of(name)):
        expected, _ = logits_of_steps(plain, inputs_of(plain, "one", "batch"))
    torch.testing.assert_close(check(model, name), expected, atol=1e-6, rtol=0)
