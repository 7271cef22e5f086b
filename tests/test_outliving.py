"""Only the tables of indices that the report reads outlive a pass: no masks, features or hidden states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import illava
from illava.runtime.cached import Cached
from illava.runtime.encoder.run import EncoderRun
from tests.battery.test_battery import inputs_of, method_of
from tests.memory import tensors_made
from tests.tiny import ALL, WITH_VIDEO, tiny_model


def outliving(model: nn.Module, inputs: dict[str, Tensor], run: str) -> list[Tensor]:
    """The tensors that a pass made and that are still alive when its outputs are gone."""
    with tensors_made() as alive, torch.no_grad():
        if run == "forward":
            model(**inputs, use_cache=True)
        else:
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        return alive()


def too_large(found: list[Tensor], inputs: dict[str, Tensor], tokens: int) -> list[tuple[object, ...]]:
    """Those that are no tables of indices with an entry for each token."""
    batch = inputs["input_ids"].numel()
    return [
        (tuple(tensor.shape), tensor.dtype)
        for tensor in found
        if tensor.is_floating_point() or tensor.untyped_storage().nbytes() > 8 * max(batch, tokens)
    ]


FORWARD = ("llava", "qwen2_vl")
"""Models whose single passes are tested every time; a generation begins with such a pass."""


def cell(name: str, shown: str, run: str) -> object:
    slow = run == "forward" and name not in FORWARD
    return pytest.param(name, shown, run, marks=pytest.mark.slow if slow else ())


CELLS = [
    cell(name, shown, run)
    for name in ALL
    for shown, run in (("two", "forward"), ("two", "generate"), ("video", "generate"))
    if shown != "video" or name in WITH_VIDEO
]


@pytest.mark.parametrize(("name", "shown", "run"), CELLS)
def test_only_tables_of_indices_outlive_a_pass(name: str, shown: str, run: str) -> None:
    model = tiny_model(name)
    inputs = inputs_of(model, shown, "single" if shown == "video" else "batch")
    with illava.accelerate(model, method_of(name)) as handle:
        found = outliving(model, inputs, run)
        tokens = sum(counts.embedded for counts in handle.report.token_counts[0].encoder)
        assert found, "the report needs some"
        assert not too_large(found, inputs, tokens)


def test_a_mask_that_is_held_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EncoderRun, "forget", lambda run: None)
    monkeypatch.setattr(Cached, "clear", lambda cached: None)
    model = tiny_model("llava-pixtral")
    inputs = inputs_of(model, "two", "batch")
    with illava.accelerate(model, method_of("llava-pixtral")):
        found = outliving(model, inputs, "forward")
    assert any(len(shape) == 4 for shape, _ in too_large(found, inputs, 10**6))
