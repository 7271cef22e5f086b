"""Training on an accelerator: nothing is waited for, and the fused attention computes the same."""

from pathlib import Path

import illava_lab
import pytest
import torch
from illava_lab.real.training import run
from illava_lab.real.training.batches import pack
from illava_lab.real.training.llm import products
from illava_lab.real.training.model import TrainedModel
from illava_lab.real.training.packing import Packer
from illava_lab.real.training.recipe import RECIPES, Stage
from illava_lab.real.training.run import Run
from torch.nn import functional as F
from transformers import AutoTokenizer

from tests import fake_device

from .conftest import coloured

OURS = str(Path(illava_lab.__file__).parent)


def move(model: TrainedModel) -> None:
    """The model, in place, to the device; its parameters stay parameters."""
    for part in (model, model.encoder.model):
        kept = [weight.requires_grad for weight in part.parameters()]
        fake_device.to_device(part)
        for weight, learnt in zip(part.parameters(), kept, strict=True):
            weight.requires_grad_(learnt)
    model.encoder.mean, model.encoder.std = fake_device.to_device((model.encoder.mean, model.encoder.std))


def started(parts: dict[str, Path], output: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose projector and adapters all get gradients."""
    monkeypatch.setitem(RECIPES, "tiny", (Stage("only", (28,), 255, 100, {"any": 1.0}, rate=1e-3),))
    monkeypatch.setattr(run, "fastest_dtype", lambda device: torch.float32)
    job = Run(parts["encoder"], parts["llm"], output, recipe="tiny", workers=0, say=lambda line: None)
    with torch.no_grad():
        for name, weight in job.weights.items():
            if name.endswith("lora_B"):
                torch.nn.init.normal_(weight, std=0.1)
    return job


@pytest.mark.usefixtures("coloured_stream")
def test_a_step_waits_for_nothing_and_learns_what_the_cpu_learns(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (started(parts, tmp_path / name, monkeypatch) for name in ("cpu", "device"))
    tokenizer = AutoTokenizer.from_pretrained(parts["llm"])
    batches = [pack(Packer(tokenizer), [coloured(i), coloured(i + 4)], 28) for i in range(4)]
    on_cpu = [float(here.learn(batch)) for batch in batches]
    with fake_device.device():
        move(there.model)
        there.device = fake_device.DEVICE
        there.weights = there.model.trained()
        for group, names in zip(there.optimizer.param_groups, (4, None), strict=True):
            named = list(there.weights.values())
            group["params"] = named[:4] if names else named[4:]
        there.average = fake_device.to_device(there.average)
        there.learn(batches[0])
        with fake_device.watch() as waits:
            losses = [there.learn(_pinned(batch)) for batch in batches[1:]]
        assert not [wait for wait in waits.found if wait[1].startswith(OURS)]
        # It sees what waits.
        with fake_device.watch() as waits:
            losses = [loss.item() for loss in losses]
        assert len(waits.found) == len(losses)
    assert losses == pytest.approx(on_cpu[1:], rel=1e-4)
    assert len({round(loss, 4) for loss in losses}) == len(losses)


def _pinned(batch):
    return batch._replace(pictures=batch.pictures.pin_memory(), packed=batch.packed.pin_memory())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_to_attend_compute_the_same(parts: dict[str, Path], dtype: torch.dtype) -> None:
    """With a packed batch's mask, forward and backward; rows of padding included."""
    packer = Packer(AutoTokenizer.from_pretrained(parts["llm"]))
    packed = packer([coloured(0), coloured(1)._replace(turns=coloured(1).turns[:1])], visual=9)
    mask = packed.mask()[:, None]
    added = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(4, 2, 3, mask.shape[-1], 16, generator=generator).to(dtype)
    found = []
    for attend in (products, F.scaled_dot_product_attention):
        inputs = [tensor.clone().requires_grad_() for tensor in made[:3]]
        out = attend(*inputs, added)
        out.backward(made[3])
        found.append([out, *(tensor.grad for tensor in inputs)])
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_the_fused_one_is_used_elsewhere(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute() -> torch.Tensor:
        positions = torch.arange(5)[None]
        return trained.llm(torch.ones(1, 5, 48), positions, torch.ones(1, 5, 5).tril().bool())

    def refuse(*args, **options):
        raise AssertionError("fused attention")

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", refuse)
        expected = compute()
        with fake_device.device():
            move(trained)
            with pytest.raises(AssertionError, match="fused attention"):
                _on_device(trained)
    with fake_device.device():
        found = _on_device(trained)
    torch.testing.assert_close(found.held, expected, rtol=1e-4, atol=1e-4)


def _on_device(trained: TrainedModel) -> torch.Tensor:
    given = torch.ones(1, 5, 48), torch.arange(5)[None], torch.ones(1, 5, 5).tril().bool()
    return trained.llm(*fake_device.to_device(given))


def test_pinned_batches_hold_the_same(parts: dict[str, Path]) -> None:
    packed = Packer(AutoTokenizer.from_pretrained(parts["llm"]))([coloured(0)], visual=4)
    with fake_device.device():
        pinned = packed.pin_memory()
        assert pinned.tokens.is_pinned()
        assert not packed.tokens.is_pinned()
    assert pinned.picture == packed.picture
    assert torch.equal(pinned.targets, packed.targets)
