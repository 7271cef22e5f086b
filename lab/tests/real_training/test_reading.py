"""The encoder's leg of reading: labels of patches, what is learnt, and what must not change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from illava_lab.real.data.pages import Character, Page
from illava_lab.real.training import encoder_leg, naming, reading, reading_run
from illava_lab.real.training.encoder import Encoder
from illava_lab.real.training.reading import CHARACTERS, NOTHING, Lessons, Reader, labels, lost
from illava_lab.real.training.reading_run import STATE, ReadingRun
from PIL import Image
from torch.nn import functional as F


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few patches a step."""
    monkeypatch.setattr(naming, "GRIDS", {(28, 1): 1.0})
    monkeypatch.setattr(reading, "SIDES", {112: 1.0})
    monkeypatch.setattr(reading, "TOKENS", 260)
    monkeypatch.setattr(reading_run, "SCORED", 3)


def test_a_half_of_a_patch_is_labelled_with_what_is_on_its_middle() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        top, left, height = rng.uniform(0, 50), rng.uniform(0, 30), rng.uniform(4, 40)
        ends = left + np.cumsum([0, *rng.uniform(3, 20, 4)])
        shown = Page(
            Image.new("RGB", (84, 84)),
            tuple(
                Character(letter, (ends[i], top, ends[i + 1], top + height))
                for i, letter in enumerate("aB3#")
            ),
        )
        found = labels(shown, 84)
        assert found.shape == (36, 2)
        for row in range(6):
            inside = max(0.0, min(top + height, 14 * row + 14) - max(top, 14 * row))
            belongs = inside >= 0.5 * min(14, height)
            for half in range(12):
                middle = 7 * half + 3.5
                under = [i for i in range(3) if ends[i] <= middle < ends[i + 1]]
                wanted = CHARACTERS.index("ab3"[under[0]]) if belongs and under else NOTHING
                assert found[6 * row + half // 2, half % 2] == wanted


@torch.no_grad()
def test_loss_weighs_what_is_not_written_less() -> None:
    torch.manual_seed(0)
    reader, features = Reader(8), torch.randn(2, 4, 8)
    wanted = torch.full((2, 4, 2), NOTHING)
    wanted[0, 0, 1], wanted[1, 3, 0] = 5, 30
    logits = reader.linear(reader.norm(features)).view(2, 4, 2, NOTHING + 1)
    above = below = 0.0
    for b in range(2):
        for n in range(4):
            for half in range(2):
                number = int(wanted[b, n, half])
                weight = reading.BLANK if number == NOTHING else 1.0
                above += weight * F.cross_entropy(logits[b, n, half], torch.tensor(number)).item()
                below += weight
    assert reader.loss(features, wanted).item() == pytest.approx(above / below, rel=1e-5)
    hits = [int(logits[0, 0, 1].argmax()) == 5, int(logits[1, 3, 0].argmax()) == 30]
    assert reader.right(features, wanted) == (sum(hits), 2)


def test_what_features_lost_is_a_share_of_their_variance() -> None:
    before = torch.randn(3, 4, 5)
    assert lost(before, before) == 0
    # All features became their mean: the whole variance is lost.
    assert lost(before.mean((0, 1)).expand(3, 4, 5), before).item() == pytest.approx(1)


@pytest.mark.usefixtures("small")
def test_lessons_depend_on_the_step_alone(sets: Path) -> None:
    first, again = Lessons(sets), Lessons(sets)
    again[3]
    for step in (0, 5):
        for one, other in zip(first[step], again[step], strict=True):
            assert torch.equal(one, other)
    pages, wanted, photos = first[0]
    assert pages.shape == (2, 112, 112, 3)
    assert wanted.shape == (2, 64, 2)
    assert photos.shape == (26, 28, 28, 3)
    assert (wanted != NOTHING).any()


def begun(parts: dict[str, Path], output: Path, sets: Path, steps: int, said: list[str]) -> ReadingRun:
    adapted = Encoder(parts["encoder"], torch.float32).named_adapters()
    generator = torch.Generator().manual_seed(3)
    for _, weight in sorted(adapted.items()):
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    output.mkdir(exist_ok=True)
    options = {"workers": 0, "say": said.append, "steps": steps}
    return ReadingRun(parts["encoder"], adapted, output, sets, torch.float32, **options)


@pytest.mark.usefixtures("small")
def test_it_learns_and_a_stopped_run_ends_where_an_unstopped_one_does(
    parts: dict[str, Path], sets: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    whole = begun(parts, tmp_path / "whole", sets, 40, said)
    start = {name: weight.detach().clone() for name, weight in whole.adapters.items()}
    assert whole.go(5)
    assert "halves of patches name their character, photographs lost " in said[-1]
    for name, weight in whole.before.named_adapters().items():
        assert torch.equal(weight, start[name])
    assert any(not torch.equal(weight, start[name]) for name, weight in whole.adapters.items())
    part = begun(parts, tmp_path / "part", sets, 40, said)
    assert not part.go(0)
    again = begun(parts, tmp_path / "part", sets, 40, said)
    assert again.step == 1
    assert again.go(5)
    for name, weight in whole.adapters.items():
        torch.testing.assert_close(again.adapters[name], weight, rtol=1e-4, atol=1e-5)
    (tmp_path / "part" / STATE).write_bytes(b"no")
    with pytest.raises(ValueError, match=r"reading\.pt cannot be read; move it away to begin anew"):
        begun(parts, tmp_path / "part", sets, 40, said)


@pytest.mark.usefixtures("small")
def test_photographs_keep_their_features(
    parts: dict[str, Path], sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is learnt is to turn every feature to one direction, which tells against photographs.
    monkeypatch.setattr(Reader, "loss", lambda self, features, wanted: -features[..., 0].mean())
    monkeypatch.setattr(encoder_leg, "RATE", 2e-2)
    moved = {}
    for keep in (0.0, 4.0):
        monkeypatch.setattr(reading_run, "KEEP", keep)
        job = begun(parts, tmp_path / str(keep), sets, 40, [])
        job.go(5)
        moved[keep] = job.score()[2]
    assert moved[0.0] > 0.2
    assert moved[4.0] < 0.2 * moved[0.0]
