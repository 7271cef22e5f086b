"""Down-sampling inside the model against the plain model on smaller pictures."""

from __future__ import annotations

import pytest
import torch

import illava
from illava.methods import method_from_dict
from illava.methods.downsample import Downsample
from illava.runtime.encoder.resize import resize_patches
from tests.tiny import IMAGE, Picture, picture, pictures, prompt, tiny_model

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "glm4v", "glm46v"]


def patches(image: torch.Tensor, patch: int, side: int) -> torch.Tensor:
    """(frames, temporal, channels, height, width) to patches, as the processors order them, by loops."""
    frames, temporal, channels, height, width = image.shape
    out = []
    for t in range(frames):
        for y in range(0, height, patch * side):
            for x in range(0, width, patch * side):
                for j in range(side):
                    for i in range(side):
                        top, left = y + j * patch, x + i * patch
                        cut = image[t, :, :, top : top + patch, left : left + patch]
                        # Channels before frames.
                        values = [cut[s, c].flatten() for c in range(channels) for s in range(temporal)]
                        out.append(torch.cat(values))
    return torch.stack(out)


def test_patches_are_put_together_resized_and_cut_again():
    generator = torch.Generator().manual_seed(0)
    patch, side = 4, 2
    images = [torch.randn(*shape, generator=generator) for shape in ((1, 2, 3, 48, 64), (3, 2, 3, 16, 24))]
    sizes = [(24, 32), (8, 16)]
    expected, grid, small = [], [], []
    for image, (height, width) in zip(images, sizes, strict=True):
        frames = image.flatten(0, 1)
        shrunk = torch.nn.functional.interpolate(frames, (height, width), mode="bicubic", antialias=True)
        expected.append(patches(shrunk.view(*image.shape[:3], height, width), patch, side))
        grid.append([image.shape[0], image.shape[3] // patch, image.shape[4] // patch])
        small.append([image.shape[0], height // patch, width // patch])
    given = torch.cat([patches(image, patch, side) for image in images])
    resized = resize_patches(given, grid, small, patch, side, 2)
    torch.testing.assert_close(resized, torch.cat(expected))


def smaller(model, part: Picture, rows: int, columns: int) -> Picture:
    """The same picture as the processor would have handed it over at fewer pixels."""
    vision, grid = model.config.vision_config, part.values["image_grid_thw"]
    small = torch.tensor([[1, 2 * rows, 2 * columns]])
    pixels = resize_patches(
        part.values["pixel_values"], grid.tolist(), small.tolist(), vision.patch_size, 2, 2
    )
    return Picture({"pixel_values": pixels, "image_grid_thw": small}, [IMAGE] * rows * columns)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_plain_model_on_a_smaller_picture(family, attention):
    model = tiny_model(family, attention)
    # 6 x 8 units to 3 x 4, 4 x 4 to 2 x 2.
    whole = [picture(model, (6, 8)), picture(model, (4, 4), seed=1)]
    small = [smaller(model, whole[0], 3, 4), smaller(model, whole[1], 2, 2)]
    rows = [([5, 6, 7], [0, 1]), ([8, 9, 5, 6], [1])]
    given, wanted = (
        prompt(model, [(text, [parts[i] for i in shown]) for text, shown in rows]) for parts in (whole, small)
    )
    plain = model.generate(**wanted, max_new_tokens=4, output_logits=True, return_dict_in_generate=True)
    with illava.accelerate(model, Downsample(keep=0.25)) as handle:
        made = model.generate(**given, max_new_tokens=4, output_logits=True, return_dict_in_generate=True)
        report = handle.report
    length = wanted["input_ids"].shape[1]
    assert torch.equal(made.sequences[:, given["input_ids"].shape[1] :], plain.sequences[:, length:])
    tolerance = 2e-3 if family == "qwen3_5" else 1e-4
    torch.testing.assert_close(torch.stack(made.logits), torch.stack(plain.logits), rtol=0, atol=tolerance)
    assert (report.visual_tokens, report.final_tokens) == (48 + 2 * 16, 12 + 2 * 4)
    with illava.accelerate(model, illava.Illava(encoder_layers=(), llm_layers=())) as handle:
        model(**wanted)
        small_cost = handle.report.plain_cost
    if family != "qwen3_5":  # filler of the batch counts there
        assert (report.cost.encoder, report.cost.projector) == (small_cost.encoder, small_cost.projector)
        assert report.cost.total == small_cost.total


def smaller_whole(part: Picture, patch: int, rows: int, columns: int) -> Picture:
    """The same for an encoder of whole pictures, (1, 3, height, width)."""
    pixels = torch.nn.functional.interpolate(
        part.values["pixel_values"], (rows * patch, columns * patch), mode="bicubic", antialias=True
    )
    return Picture({"pixel_values": pixels}, [part.ids[0]] * (rows * columns + part.ids.count(IMAGE) - 36))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llava-dinov2", "llava-dinov2-full", "llava-dinov2-registers"])
def test_encoders_of_whole_pictures_get_smaller_ones(family, attention):
    """Class tokens and registers that the LLM sees stay."""
    model = tiny_model(family, attention)
    patch = model.config.vision_config.patch_size
    whole = [picture(model, (6, 6)), picture(model, (6, 6), seed=1)]
    extra = len(whole[0].ids) - 36
    small = [smaller_whole(part, patch, 3, 3) for part in whole]
    rows = [([5, 6, 7], [0, 1]), ([8, 9, 5, 6], [1])]
    given, wanted = (
        prompt(model, [(text, [parts[i] for i in shown]) for text, shown in rows]) for parts in (whole, small)
    )
    plain = model.generate(**wanted, max_new_tokens=4, output_logits=True, return_dict_in_generate=True)
    with illava.accelerate(model, Downsample(keep=0.25)) as handle:
        made = model.generate(**given, max_new_tokens=4, output_logits=True, return_dict_in_generate=True)
        report = handle.report
    torch.testing.assert_close(torch.stack(made.logits), torch.stack(plain.logits), rtol=0, atol=1e-4)
    assert (report.visual_tokens, report.final_tokens) == (3 * (36 + extra), 3 * (9 + extra))
    with illava.accelerate(model, illava.Illava(encoder_layers=(), llm_layers=())) as handle:
        model(**wanted)
        small_cost = handle.report.plain_cost
    assert (report.cost.encoder, report.cost.total) == (small_cost.encoder, small_cost.total)
    predicted = illava.predict(
        model, Downsample(keep=0.25), prompt_tokens=7, picture_size=(6 * patch, 6 * patch)
    )
    assert predicted.llm_tokens[0] == 9 + extra
    unmerged = model(**given).logits
    with illava.accelerate(model, Downsample(keep=1.0)):
        assert torch.equal(model(**given).logits, unmerged)


@torch.no_grad()
def test_boxes_of_what_is_left_are_spread_evenly():
    model = tiny_model("qwen2_5_vl")
    inputs = prompt(model, [([5, 6, 7], [picture(model, (4, 6))])])
    with illava.accelerate(model, Downsample(keep=0.25)) as handle:
        model(**inputs)
        (seen,) = handle.report.pictures
        assert handle.report.average_tokens == 6
        (step,) = handle.report.steps
        assert (step.stage, step.layer, step.before, step.after) == ("pixels", -1, 24, 6)
        assert "smaller image: 24 -> 6" in str(handle.report)
    (kept,) = seen.kept
    # Of 4 rows and 6 columns every other one, from the first on.
    rows = [(float(x0) * 6, float(y0) * 4) for _, x0, y0, _, _ in kept]
    places = {(round(x), round(y)) for x, y in rows}
    assert places == {(x, y) for x in (0, 2, 4) for y in (0, 2)}
    assert len(seen.all) == 24


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_keeping_everything_and_removal_change_nothing(family):
    model = tiny_model(family)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 2))])
    plain = model(**inputs).logits
    with illava.accelerate(model, Downsample(keep=1.0)):
        assert torch.equal(model(**inputs).logits, plain)
    with illava.accelerate(model, Downsample(keep=0.3)):
        assert model(**inputs).logits.shape[1] < plain.shape[1]
    assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("family", ["llava", "llava_onevision", "internvl", "mistral3", "gemma3"])
def test_other_families_are_refused_with_what_to_do_instead(family):
    with pytest.raises(illava.UnsupportedError, match="give smaller pictures"):
        illava.accelerate(tiny_model(family), Downsample(keep=0.5))


@pytest.mark.parametrize("keep", [0, 1.5, "half", True])
def test_bad_budgets_are_refused(keep):
    with pytest.raises(ValueError, match="keep must lie in"):
        Downsample(keep=keep)


def test_dictionaries_bring_it_back():
    assert method_from_dict(Downsample(keep=0.3).to_dict()) == Downsample(keep=0.3)
