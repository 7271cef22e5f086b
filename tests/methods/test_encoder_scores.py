"""Scores of the image encoder past the paper: what steps get to see, and what they make of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import illava
from illava.methods.encoder_scores import encoder_scores, outliers
from illava.methods.merge_step import MergeStep
from illava.methods.steps import Units
from tests.battery.naive import blocks_of, entering, highest
from tests.core.loops import coverage_loop, diverse_loop, pixel_cues_loop
from tests.methods.test_illava_options import units_between
from tests.tiny import pictures, prompt, tiny_model

KEEP = 0.4
FAMILIES = ["llava", "qwen2_vl", "qwen2_5_vl", "internvl", "llava_next", "llava-dinov2"]


def method(kind: str, layers: tuple[int, ...] = (1,), **options: object) -> illava.Illava:
    experimental = {"encoder_score": kind, **options.pop("experimental", {})}
    given = {"reduce": "drop", "llm_layers": (), "encoder_layers": layers, "encoder_keep": KEEP, **options}
    return illava.Illava(experimental=experimental, **given)


@contextmanager
def units_seen() -> Iterator[list[Units]]:
    """The units that each step got."""
    found: list[Units] = []
    reduce = MergeStep.reduce

    def spy(self, units):
        found.append(units)
        return reduce(self, units)

    with mock.patch.object(MergeStep, "reduce", spy):
        yield found


def patches_of(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Of each picture or tile its (N, 3, F, p, p) patches, those of a unit side by side."""
    pixels, vision = inputs["pixel_values"], model.config.vision_config
    if "image_grid_thw" in inputs:
        lengths = [int(h * w) for _, h, w in inputs["image_grid_thw"].tolist()]
        patch = vision.patch_size
        return [*pixels.view(len(pixels), 3, -1, patch, patch).split(lengths)]
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    tiles = []
    for tile in pixels.flatten(0, -4):
        if not tile.any():
            continue
        side = tile.shape[-1] // patch
        grid = [
            [tile[:, y * patch :, x * patch :][:, :patch, :patch] for x in range(side)] for y in range(side)
        ]
        places = [(y, x) for y in range(side) for x in range(side)]
        if model.config.model_type == "internvl":
            half = range(0, side, 2)
            places = [(y + a, x + b) for y in half for x in half for a in (0, 1) for b in (0, 1)]
        tiles.append(torch.stack([grid[y][x] for y, x in places])[:, :, None])
    return tiles


def busy(pixels: Tensor) -> Tensor:
    """Pictures that show more in some places: the noise is cut off at heights that differ."""
    heights = torch.rand(pixels.shape[:-1], generator=torch.Generator().manual_seed(7))[..., None]
    # Tiles of zeros only fill a batch.
    return torch.where(pixels == 0, pixels, pixels.clamp(min=2 * heights - 1))


def prompt_of(model: nn.Module) -> dict[str, Tensor]:
    inputs = prompt(model, [([5, 6, 7], pictures(model, 2))])
    return {**inputs, "pixel_values": busy(inputs["pixel_values"])}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_cues_of_a_unit_are_those_of_its_pixels(family):
    model = tiny_model(family)
    inputs = prompt_of(model)
    with illava.accelerate(model, method("pixels", select="highest")) as handle, units_seen() as seen:
        model(**inputs)
        group, report = handle.modules.group, handle.report
    (units,) = seen
    loops = [
        torch.tensor(pixel_cues_loop(part)).view(-1, group).mean(1) for part in patches_of(model, inputs)
    ]
    got = units.cues.split(units.lengths)
    assert len(got) == len(loops) >= 2
    for cues, want in zip(got, loops, strict=True):
        if family != "qwen2_5_vl":  # whose units are sorted by window
            torch.testing.assert_close(cues, want, atol=1e-5, rtol=0)
        torch.testing.assert_close(cues.sort().values, want.sort().values, atol=1e-5, rtol=0)
        assert want.std() > 0.01
    if family in ("llava", "qwen2_vl", "qwen2_5_vl"):
        # By place in the picture, also where units are sorted.
        for want, seen in zip(loops, report.pictures, strict=True):
            # Boxes start with frame, left and top.
            raster = sorted(seen.all.tolist(), key=lambda box: (box[0], box[2], box[1]))
            kept = [raster.index(box) for box in seen.kept[0].tolist()]
            best = want[highest(want.tolist(), KEEP)]
            torch.testing.assert_close(want[kept].sort().values, best.sort().values, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_step_sees_the_cues_of_the_units_that_are_left(family):
    model = tiny_model(family)
    inputs = prompt_of(model)
    with illava.accelerate(model, method("pixels", (1, 3))), units_seen() as seen:
        model(**inputs)
    before, after = (sort_each(units) for units in seen)
    for whole, left in zip(before, after, strict=True):
        assert 0 < len(left) < len(whole)
        assert torch.equal(left, whole[: len(left)]), "those of the highest are left"


def sort_each(units: Units) -> list[Tensor]:
    return [part.sort(descending=True).values for part in units.cues.split(units.lengths)]


@torch.no_grad()
@pytest.mark.parametrize("family", [*FAMILIES, "llava-pixtral", "mistral3"])
def test_a_step_sees_the_units_that_entered_its_block(family):
    model = tiny_model(family)
    inputs = prompt_of(model)
    rows: list[Tensor] = []
    with entering(blocks_of(model)[1], rows):
        model(**inputs)
    with illava.accelerate(model, method("change", (1, 3))) as handle, units_seen() as seen:
        model(**inputs)
        prefix, group = handle.modules.prefix, handle.modules.group
    assert seen[0].entered.shape == seen[0].vectors.shape
    assert seen[1].entered.shape == seen[1].vectors.shape
    width = rows[0].shape[-1]
    tokens = rows[0].reshape(-1, width) if not prefix else rows[0][:, prefix:].flatten(0, 1)
    # All of them, whatever their order.
    got = seen[0].entered.view(-1, width)
    assert torch.equal(got.sort(0).values, tokens.sort(0).values)
    assert got.shape == (sum(seen[0].lengths) * group, width)
    assert (seen[0].entered - seen[0].vectors).norm(dim=-1).min() > 0


@torch.no_grad()
@pytest.mark.parametrize("select", ["diverse", "coverage"])
@pytest.mark.parametrize("kind", ["none", "change", "pixels"])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_units_are_selected_as_the_loop_does(family, kind, select):
    model = tiny_model(family)
    inputs = prompt_of(model)
    segments = units_between(model, inputs, 1)
    with illava.accelerate(model, method(kind, select=select)) as handle, units_seen() as seen:
        model(**inputs)
        report = handle.report
    (units,) = seen
    entered = None if units.entered is None else units.entered.split(units.lengths)
    cues = None if units.cues is None else units.cues.split(units.lengths)
    loop = {"diverse": diverse_loop, "coverage": coverage_loop}[select]
    for number, (rows, shown) in enumerate(zip(segments, report.pictures, strict=True)):
        scores = [1.0] * len(rows)
        if kind == "change":
            before = entered[number].double().tolist()
            scores = [
                sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) ** 0.5
                for pair in zip(rows, before, strict=True)
            ]
        if kind == "pixels":
            values = cues[number].double().tolist()
            scores = [(v - min(values)) / (max(values) - min(values)) for v in values]
        kept = sorted(loop(rows, scores, len(highest(scores, KEEP))))
        assert torch.equal(shown.kept[0], shown.all[kept])


def test_attention_and_pixels_add_up():
    attention, cues = torch.tensor([[0.1, 0.5, 0.2, 0.2]]), torch.tensor([[1.0, 0.5, 1.5, 0.5]])
    mean = 0.25
    deviation = (sum((a - mean) ** 2 for a in attention[0].tolist()) / 4) ** 0.5
    want = [
        a + 0.2 * deviation * (c - 0.5) for a, c in zip(attention[0].tolist(), cues[0].tolist(), strict=True)
    ]
    got = encoder_scores("attention+pixels", torch.zeros(1, 4, 2), attention, cues)
    assert got[0].tolist() == pytest.approx(want)
    flat = encoder_scores("pixels", torch.zeros(1, 4, 2), torch.full((1, 4), 0.3))
    assert flat.tolist() == [[0.0] * 4]


def test_sinks_are_ranked_first_or_last():
    directions = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
    vectors = torch.nn.functional.normalize(directions, dim=-1) * torch.linspace(0.9, 1.1, 50)[:, None]
    vectors[0, 7] *= 20
    vectors[1, [3, 4]] *= 20
    assert outliers(vectors).nonzero().tolist() == [[0, 7], [1, 3], [1, 4]]
    assert outliers(vectors * 1e-3).nonzero().tolist() == [[0, 7], [1, 3], [1, 4]]
    assert not outliers(torch.ones(1, 9, 4)).any()
    scores = torch.rand(2, 50) + 0.1
    kept = encoder_scores("attention", vectors, scores, sinks="keep")
    dropped = encoder_scores("attention", vectors, scores, sinks="discount")
    assert kept[0].argmax() == 7
    assert sorted(kept[1].topk(2).indices.tolist()) == [3, 4]
    assert dropped[0].argmin() == 7
    assert torch.equal(dropped[1] == 0, outliers(vectors)[1])
    for found in (kept, dropped):
        assert torch.equal(found[~outliers(vectors)], scores[~outliers(vectors)])


@torch.no_grad()
@pytest.mark.parametrize("sinks", ["keep", "discount"])
def test_sinks_of_a_model_are_kept_or_not(sinks):
    model = tiny_model("llava")
    inputs = prompt_of(model)

    def grow(module, args):
        args[0][:, 1 + 5] *= 50  # the sixth patch

    hook = blocks_of(model)[1].register_forward_pre_hook(grow)
    with illava.accelerate(model, method("none", select="diverse", experimental={"sinks": sinks})) as handle:
        model(**inputs)
        report = handle.report
    hook.remove()
    for shown in report.pictures:
        assert any(torch.equal(shown.all[5], box) for box in shown.kept[0]) == (sinks == "keep")


def test_a_power_flattens_the_scores():
    units = torch.randn(1, 30, 4, generator=torch.Generator().manual_seed(0))
    scores = torch.rand(1, 30, generator=torch.Generator().manual_seed(1))
    for select in ("diverse", "coverage"):
        step = MergeStep(0.3, select=select, reduction="drop", score_power=0.5)
        want = MergeStep(0.3, select=select, reduction="drop")._reduce(True, 9, units, scores**0.5)
        assert torch.equal(step._reduce(True, 9, units, scores).kept, want.kept)
        even = MergeStep(0.3, select=select, reduction="drop", score_power=0.0)._reduce(
            True, 9, units, scores
        )
        none = MergeStep(0.3, select=select, reduction="drop", encoder_score="none")._reduce(True, 9, units)
        assert torch.equal(even.kept, none.kept)
