"""torch.export and torch.jit.trace: refused of an accelerated model and its parts, as before afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import illava
from tests.battery.test_battery import method_of
from tests.test_exact import single
from tests.tiny import tiny_model


def parts(model: nn.Module) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """What people export: the whole, the LLM, the image encoder. With arguments of each."""
    inputs = single(model)
    states = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))
    return {
        "whole": (model, {**inputs, "use_cache": False}),
        "LLM": (model.model.language_model, {"inputs_embeds": states, "use_cache": False}),
        "encoder": (model.model.vision_tower, {"pixel_values": inputs["pixel_values"]}),
    }


def exported(module: nn.Module, given: dict[str, Any]) -> Any:
    with torch.no_grad():
        return torch.export.export(module, (), given, strict=False).module()(**given)[0]


def traced(module: nn.Module, given: dict[str, Any]) -> Any:
    tensors = {name: value for name, value in given.items() if torch.is_tensor(value)}
    with torch.no_grad():
        return torch.jit.trace(module, example_kwarg_inputs=tensors, strict=False, check_trace=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", ["whole", "LLM", "encoder"])
@pytest.mark.parametrize("way", [exported, traced])
def test_parts_of_an_accelerated_model(part: str, way: Callable[..., Any]) -> None:
    model = tiny_model("llava")
    module, given = parts(model)[part]
    with (
        illava.accelerate(model, method_of("llava")),
        pytest.raises(illava.UnsupportedError, match="traced or exported") as error,
    ):
        way(module, given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["whole", "LLM", "encoder"])
def test_a_plain_model_is_exported_as_before(part: str) -> None:
    model = tiny_model("llava")
    module, given = parts(model)[part]
    with torch.no_grad():
        expected = module(**given)[0]
    illava.accelerate(model, method_of("llava")).remove()
    torch.testing.assert_close(exported(module, given), expected, atol=1e-5, rtol=0)


def test_what_holds_no_hook_can_be_exported_while_accelerated() -> None:
    model = tiny_model("llava")
    states = torch.randn(1, 3, 32)
    with illava.accelerate(model, method_of("llava")), torch.no_grad():
        torch.testing.assert_close(exported(model.lm_head, {"input": states}), model.lm_head(states)[0])
