"""A model on two devices, of which the second is made up: a CPU tensor that says it is somewhere else.

Anything that mixes tensors of both raises, as it would on two graphics cards; accelerate's own hooks move
hidden states and arguments from layer to layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

import illava
from illava.compat import CACHE_NAMES
from tests.battery.test_battery import inputs_of
from tests.tiny import tiny_model

HERE, THERE = torch.device("cpu"), torch.device("meta")
FIRST_THERE = 3
SETTINGS = {
    "encoder": illava.Illava(encoder_layers=(1,), encoder_keep=0.5, llm_layers=()),
    "here": illava.Illava(encoder_layers=(), llm_layers=(2,), llm_keep=0.5),
    "there": illava.Illava(encoder_layers=(), llm_layers=(4,), llm_keep=0.5),
    "looks again": illava.PyramidDrop(layers=(2, 4), keep=0.5),
    "both": illava.Illava(encoder_layers=(1,), encoder_keep=0.7, llm_layers=(2, 4), llm_keep=0.7),
}


class Elsewhere(Tensor):
    """Holds its values on the CPU and claims to be on ``THERE``."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=THERE,
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        parts = [part for part in tree_flatten((args, kwargs))[0] if isinstance(part, Tensor)]
        moves = function is torch.ops.aten.copy_.default
        if not moves and any(not isinstance(part, cls) and part.dim() for part in parts):
            raise RuntimeError(f"tensors of two devices in {function}")
        back = kwargs.get("device") is not None and torch.device(kwargs["device"]) == HERE
        if kwargs.get("device") is not None:
            kwargs["device"] = HERE
        out = function(*tree_map(_values, args), **tree_map(_values, kwargs))
        return out if back else tree_map(_elsewhere, out)


def _values(x: Any) -> Any:
    return x.values if isinstance(x, Elsewhere) else x


def _elsewhere(x: Any) -> Any:
    return Elsewhere(x) if isinstance(x, Tensor) and not isinstance(x, Elsewhere) else x


class Moves(TorchFunctionMode):
    """What leads from one device to the other, and what is made on the second."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is Tensor.to:
            target = kwargs.get("device", args[1] if len(args) > 1 else None)
            if isinstance(target, Tensor):
                target = target.device
            if isinstance(target, str | torch.device):
                types = [part for part in (*args, *kwargs.values()) if isinstance(part, torch.dtype)]
                values = _values(args[0]).to(*types)
                return _elsewhere(values) if torch.device(target) == THERE else values
        elif function is nn.functional.scaled_dot_product_attention and isinstance(args[0], Elsewhere):
            mask = kwargs.get("attn_mask")
            assert all(isinstance(part, Elsewhere) for part in args[:3])
            assert mask is None or isinstance(mask, Elsewhere)
            return Elsewhere(function(*map(_values, args), **tree_map(_values, kwargs)))
        elif isinstance(kwargs.get("device"), torch.device) and kwargs["device"] == THERE:
            return tree_map(_elsewhere, function(*args, **{**kwargs, "device": HERE}))
        return function(*args, **kwargs)


@contextmanager
def on_two_devices(model: nn.Module) -> Iterator[None]:
    """Layers from FIRST_THERE on lie on the second device; what follows them is back on the first."""
    layers = model.model.language_model.layers
    for index, module in enumerate([*layers, model.model.language_model.norm]):
        there = FIRST_THERE <= index < len(layers)
        hook = AlignDevicesHook(execution_device=THERE if there else HERE, skip_keys=list(CACHE_NAMES))
        hook.init_hook = lambda module: module  # which would look for weights to move
        add_hook_to_module(module, hook)
        for part in module.modules() if there else ():
            for name, weight in part._parameters.items():
                if weight is not None:
                    part._parameters[name] = nn.Parameter(Elsewhere(weight.data), requires_grad=False)
    with torch.no_grad(), Moves():
        yield


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("rows", ["single", "batch"])
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "qwen3_vl", "internvl"])
def test_as_on_one_device(name: str, rows: str, setting: str) -> None:
    model, spread = tiny_model(name), tiny_model(name)
    inputs = inputs_of(model, "one", rows)
    real = inputs["attention_mask"][:, -1].bool()
    with torch.no_grad(), illava.accelerate(model, SETTINGS[setting]):
        expected = model(**inputs).logits
    with on_two_devices(spread), illava.accelerate(spread, SETTINGS[setting]):
        found = _values(spread(**inputs).logits)
    assert found.shape == expected.shape
    torch.testing.assert_close(found[real], expected[real], atol=1e-6, rtol=0)


def test_mixing_devices_does_raise() -> None:
    there = Elsewhere(torch.ones(3))
    with Moves(), pytest.raises(RuntimeError, match="two devices"):
        there + torch.ones(3)
