"""Training an accelerated model: gradients, with and without gradient checkpointing."""

from __future__ import annotations

import warnings

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn

import illava
from tests.battery.test_battery import inputs_of, method_of
from tests.tiny import tiny_model

NAMES = ("llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "mistral3", "gemma3")
REENTRANT = {"use_reentrant": True}


def checkpointed(model: nn.Module, **options: bool) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # renamed after the lowest release that is supported
        model.gradient_checkpointing_enable(options or None)
    return model


def backward(model: nn.Module, *prompts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a sum over all logits, every forward before the backward."""
    model.zero_grad()
    total = torch.zeros(())
    for inputs in prompts:
        total = total + model(**inputs, use_cache=False).logits.pow(2).mean()
    total.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_changes_no_gradient(name: str) -> None:
    model = tiny_model(name).train()
    prompts = [inputs_of(model, "two", "single"), inputs_of(model, "one", "batch")]
    # Whatever a family draws at random in training would differ between runs.
    assert not any(m.p for m in model.modules() if isinstance(m, nn.Dropout))
    with illava.accelerate(model, method_of(name)) as handle:
        expected = backward(model, *prompts)
        found = backward(checkpointed(model), *prompts)
        assert handle.report.final_tokens < handle.report.visual_tokens
    assert found.keys() == expected.keys()
    assert any("vision" in n or "visual" in n for n in found), "through the encoder too"
    for parameter, gradient in expected.items():
        assert gradient.isfinite().all(), parameter
        torch.testing.assert_close(found[parameter], gradient, atol=1e-6, rtol=1e-4, msg=parameter)


@pytest.mark.parametrize("use_cache", [None, True])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_checkpointed_layers_get_no_cache(name: str, use_cache: bool | None) -> None:
    """transformers takes it from them, and warns; in evaluation mode they get it back."""
    model = tiny_model(name).train()
    inputs = inputs_of(model, "one", "single")
    with illava.accelerate(model, method_of(name)):
        expected = backward(checkpointed(model), inputs)
        model.zero_grad()
        model(**inputs, use_cache=use_cache).logits.pow(2).mean().backward()
        for parameter, value in model.named_parameters():
            if parameter in expected:
                torch.testing.assert_close(value.grad, expected[parameter], atol=1e-6, rtol=1e-4)
        with torch.no_grad():
            wanted = model(**inputs, use_cache=False).logits
            torch.testing.assert_close(model(**inputs, use_cache=use_cache).logits, wanted)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_answers_of_a_checkpointed_model_in_training(name: str) -> None:
    """As right as the plain model's: before 5.24 transformers drops the cache and feeds single tokens."""
    model = checkpointed(tiny_model(name).train())
    inputs = inputs_of(model, "one", "single")

    def answers() -> list[torch.Tensor]:
        options = dict(max_new_tokens=3, do_sample=False)
        return [model.train(mode).generate(**inputs, **options) for mode in (True, False)]

    with torch.no_grad():
        right = torch.equal(*answers())
        with illava.accelerate(model, method_of(name)):
            assert torch.equal(*answers()) == right


def test_layers_do_run_again() -> None:
    model = checkpointed(tiny_model("qwen2_vl").train())
    runs: list[int] = []
    model.model.visual.blocks[3].mlp.register_forward_pre_hook(lambda *_: runs.append(0))
    model.model.language_model.layers[4].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    with illava.accelerate(model, method_of("qwen2_vl")):
        backward(model, inputs_of(model, "one", "single"))
    assert sorted(runs) == [0, 0, 1, 1]


def test_gradients_are_those_of_the_merged_function() -> None:
    """Against a difference quotient, in float64, where no choice of tokens changes."""
    model = tiny_model("qwen2_vl").double()
    inputs = inputs_of(model, "one", "single")
    inputs["pixel_values"] = inputs["pixel_values"].double()
    weight = model.model.visual.merger.mlp[0].weight
    with illava.accelerate(model, method_of("qwen2_vl")):
        gradient = backward(model, inputs)["model.visual.merger.mlp.0.weight"]
        way = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(0)) * 1e-3
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                weight += sign * way
                values.append(model(**inputs, use_cache=False).logits.pow(2).mean())
                weight -= sign * way
    torch.testing.assert_close((values[0] - values[1]) / 2, (gradient * way).sum(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_reentrant_checkpoints(name: str) -> None:
    """Of the encoder as well, whose first block has gradients since its input is trained."""
    model = tiny_model(name).train()
    prompts = [inputs_of(model, "two", "single"), inputs_of(model, "one", "batch")]
    with illava.accelerate(model, method_of(name)):
        expected = backward(model, *prompts)
        found = backward(checkpointed(model, **REENTRANT), *prompts)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, atol=1e-6, rtol=1e-4, msg=parameter)


def test_reentrant_checkpoints_of_the_language_model() -> None:
    model = tiny_model("qwen2_vl").train()
    inputs = inputs_of(model, "one", "single")
    method = illava.Illava(encoder_layers=(), llm_layers=(2, 4), llm_keep=0.7)
    with illava.accelerate(model, method):
        expected = backward(model, inputs)
        found = backward(checkpointed(model, **REENTRANT), inputs)
    last = "model.language_model.layers.4.mlp.down_proj.weight"
    torch.testing.assert_close(found[last], expected[last], atol=1e-6, rtol=1e-4)


def test_checkpoint_functions_are_given_back() -> None:
    model = checkpointed(tiny_model("qwen2_vl").train())
    layers = [*model.model.visual.blocks, *model.model.language_model.layers]
    before = [layer._gradient_checkpointing_func for layer in layers]
    with illava.accelerate(model, method_of("qwen2_vl")):
        backward(model, inputs_of(model, "one", "single"))
    assert [layer._gradient_checkpointing_func for layer in layers] == before


def lora(name: str) -> nn.Module:
    config = LoraConfig(target_modules=["q_proj", "v_proj", "qkv"], r=2, lora_alpha=2)
    return get_peft_model(tiny_model(name), config)


@pytest.mark.parametrize("checkpoints", [False, True], ids=["plain", "checkpoints"])
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "gemma3"])
def test_a_step_of_lora(name: str, checkpoints: bool) -> None:
    model = lora(name).train()
    if checkpoints:
        checkpointed(model)
        model.enable_input_require_grads()
    inputs = inputs_of(model, "two", "single")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    with illava.accelerate(model, method_of(name)) as handle:
        losses = []
        for _ in range(4):
            # Outputs are shorter than the prompt, so a loss is taken over the text at its end.
            logits = model(**inputs, use_cache=False).logits[0, -4:-1]
            loss = nn.functional.cross_entropy(logits, inputs["input_ids"][0, -3:])
            optimizer.zero_grad()
            loss.backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
            assert sum(bool(p.grad.any()) for p in trained) >= len(trained) / 2
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert handle.report.final_tokens < handle.report.visual_tokens


def test_a_wrapped_model_is_accelerated_as_the_one_inside() -> None:
    plain, wrapped = tiny_model("qwen2_vl"), lora("qwen2_vl").eval()
    inputs = inputs_of(plain, "one", "batch")
    with illava.accelerate(plain, method_of("qwen2_vl")), illava.accelerate(wrapped, method_of("qwen2_vl")):
        expected, found = (model.generate(**inputs, max_new_tokens=4) for model in (plain, wrapped))
        assert torch.equal(expected, found)
    with pytest.raises(ValueError, match="already"), illava.accelerate(wrapped):
        illava.accelerate(wrapped.get_base_model())


def test_prompt_learning_is_refused() -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = get_peft_model(tiny_model("llava"), config)
    with pytest.raises(illava.UnsupportedError, match="prompt learning"):
        illava.accelerate(model)
