"""The encoder's adapters: what they learn from labels, and that they are in what is saved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from illava_lab.real.training import encoder_run, naming
from illava_lab.real.training.adapter import Adapter
from illava_lab.real.training.encoder import Encoder
from illava_lab.real.training.encoder_run import STATE, EncoderRun
from illava_lab.real.training.naming import Heads, Labelled, Named, cells, painted
from PIL import Image
from torch.nn import functional as F


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few patches a step."""
    monkeypatch.setattr(naming, "GRIDS", {(28, 1): 0.4, (28, 2): 0.2, (42, 1): 0.4})
    monkeypatch.setattr(encoder_run, "SCORED", {(28, 1): 20, (28, 2): 8})
    monkeypatch.setattr(naming, "TOKENS", 120)


def begun(parts: dict[str, Path], output: Path, sets: Path, steps: int, said: list[str]) -> EncoderRun:
    return EncoderRun(parts["encoder"], output, sets, torch.float32, workers=0, say=said.append, steps=steps)


@pytest.mark.usefixtures("small")
def test_batches_depend_on_the_step_alone(sets: Path) -> None:
    first, again = Labelled(sets), Labelled(sets)
    again[3]
    for step in (0, 5):
        assert torch.equal(first[step][0], again[step][0])
        assert torch.equal(first[step][1], again[step][1])
    assert {first[step][0].shape for step in range(12)} == {(30, 28, 28, 3), (13, 42, 42, 3)}
    labels = {tuple(first[step][0].shape[:2]): set() for step in range(12)}
    for step in range(12):
        labels[tuple(first[step][0].shape[:2])].add(len(first[step][1]))
    assert labels == {(30, 28): {30, 120}, (13, 42): {13}}
    groups = {group[0].split(": ")[0] for group in first.groups}
    assert groups == {"clothing", "grocery", "grocery, fine", "digits_sign", "cards"}


def test_numbers_are_those_of_the_classes(sets: Path) -> None:
    train, held_out = Labelled(sets), Labelled(sets, "val")
    names = [name for group in train.groups for name in group]
    rng = np.random.default_rng(0)
    for one in [held_out.draw(rng) for _ in range(30)]:
        (row,) = held_out.numbers([one]).tolist()
        assert [names[number] for number in row if number >= 0] == list(one.classes)


def test_cells_hold_the_patches_of_their_photograph() -> None:
    features = torch.arange(2 * 36).view(2, 36, 1)
    found = cells(features, 3)
    assert found.shape == (18, 4, 1)
    for number in range(18):
        picture, cell = divmod(number, 9)
        top, left = 2 * (cell // 3), 2 * (cell % 3)
        wanted = [36 * picture + 6 * (top + down) + left + right for down in (0, 1) for right in (0, 1)]
        assert found[number].flatten().tolist() == wanted
    assert torch.equal(cells(features, 1), features)


def test_photographs_are_painted_row_by_row_in_their_cells() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    named = [Named(Image.new("RGB", (50, 30), colour), ("a: 0",)) for colour in colours]
    picture = painted(np.random.default_rng(0), named, 28)
    assert picture.size == (56, 56)
    assert [picture.getpixel(place) for place in ((10, 10), (38, 10), (10, 38), (38, 38))] == colours


@torch.no_grad()
def test_loss_is_the_cross_entropy_within_each_group() -> None:
    torch.manual_seed(0)
    heads = Heads([["a: 0", "a: 1"], ["b: 0", "b: 1", "b: 2"]], 4)
    features, numbers = torch.randn(3, 5, 4), torch.tensor([[0, -1], [1, 4], [2, -1]])
    found = heads.loss(features, numbers, torch.Generator().manual_seed(1))
    draws = torch.Generator().manual_seed(1)
    chance, share = torch.rand(3, 5, generator=draws), torch.rand(3, 1, generator=draws)
    losses = []
    for row in range(3):
        kept = [i for i in range(5) if chance[row, i] <= share[row]] or [int(chance[row].argmin())]
        for pooled in (features[row].mean(0), features[row, kept].mean(0)):
            logits = heads.linear(heads.norm(pooled))
            for number in numbers[row].tolist():
                if number >= 0:
                    low, high = ((0, 2), (2, 5))[number >= 2]
                    losses.append(F.cross_entropy(logits[low:high], torch.tensor(number - low)))
    assert found == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    pairs = heads.right(features, numbers)
    assert [name for name, _ in pairs] == ["a", "a", "b", "b"]
    logits = heads.linear(heads.norm(features.mean(1)))
    assert pairs[0][1] == (logits[0, :2].argmax() == 0)
    assert pairs[2][1] == (logits[1, 2:].argmax() == 2)


@pytest.mark.usefixtures("small")
def test_labels_are_learnt_and_a_stopped_run_ends_where_an_unstopped_one_does(
    parts: dict[str, Path], sets: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    whole = begun(parts, tmp_path / "whole", sets, 100, said)
    assert whole.go(5)
    losses = [float(line.split()[3].rstrip(",")) for line in said if "loss" in line]
    assert losses[-1] < 0.75 * losses[0]
    assert "clothing at 28 " in said[-1]
    assert "clothing at 28, 2 x 2 " in said[-1]
    part = begun(parts, tmp_path / "part", sets, 100, said)
    assert not part.go(0)
    again = begun(parts, tmp_path / "part", sets, 100, said)
    assert again.step == 1
    assert again.go(5)
    for name, weight in whole.adapters.items():
        torch.testing.assert_close(again.adapters[name], weight, rtol=1e-4, atol=1e-5)
    (tmp_path / "part" / STATE).write_bytes(b"no")
    with pytest.raises(ValueError, match=r"encoder\.pt cannot be read; move it away to begin anew"):
        begun(parts, tmp_path / "part", sets, 100, said)


def test_a_frozen_adapter_computes_what_it_learnt() -> None:
    torch.manual_seed(0)
    adapter = Adapter(torch.randn(6, 4), 2, 4.0, torch.randn(6))
    torch.nn.init.normal_(adapter.lora_B)
    x = torch.randn(3, 4)
    wanted = x @ (adapter.weight + 2 * adapter.lora_B @ adapter.lora_A).T + adapter.bias
    torch.testing.assert_close(adapter(x), wanted)
    adapter.freeze()
    torch.testing.assert_close(adapter(x), wanted)
    assert not any(weight.requires_grad for weight in adapter.parameters())


def test_without_a_change_features_are_those_of_transformers(parts: dict[str, Path]) -> None:
    from transformers import Dinov2Model

    encoder = Encoder(parts["encoder"], torch.float32)
    model = Dinov2Model.from_pretrained(parts["encoder"])
    pictures = torch.randint(0, 256, (2, 28, 42, 3), dtype=torch.uint8)
    with torch.no_grad():
        wanted = model.encoder(model.embeddings(encoder.normalised(pictures))).last_hidden_state[:, 1:]
    torch.testing.assert_close(encoder(pictures), wanted)
    assert len(encoder.named_adapters()) == 2 * 6 * len(model.encoder.layer)
