"""Video, pictures and video together, pictures with more tiles than the limit, right padding."""

from __future__ import annotations

import pytest
import torch

import illava
from illava.ops.marks import mark_through, marked
from tests.test_exact import BOTH, logits_of_steps
from tests.tiny import (
    FAMILIES,
    IMAGE,
    VIDEO,
    picture,
    pictures,
    prompt,
    tiny_model,
    video,
    video_prompt,
)


def with_video(model, frames=3, image=False):
    """One prompt: text, maybe a picture, a video, text. Returns inputs and the video's placeholders."""
    shown = video(model, frames)
    parts = pictures(model, 1) if image else []
    return video_prompt(model, [5, 6, 7], parts, shown), shown.ids.count(VIDEO)


def exactly_merged(model, inputs):
    """The report of a merged run, after checking it and the plain model before and behind it."""
    plain, _ = logits_of_steps(model, inputs)
    with illava.accelerate(model, keep=1.0):
        assert torch.equal(logits_of_steps(model, inputs)[0], plain)
    with illava.accelerate(model, BOTH) as handle:
        cached, _ = logits_of_steps(model, inputs)
        report = handle.report
        recomputed, _ = logits_of_steps(model, inputs, use_cache=False)
    assert torch.equal(logits_of_steps(model, inputs)[0], plain)
    assert cached.isfinite().all()
    torch.testing.assert_close(cached, recomputed, atol=1e-5, rtol=0)
    return report


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("image", [False, True], ids=["video", "image and video"])
def test_video(family, image):
    model = tiny_model(family)
    inputs, tokens = with_video(model, image=image)
    report = exactly_merged(model, inputs)
    shown = report.pictures[-1]
    assert [p.kind for p in report.pictures] == ["image"] * image + ["video"]
    assert shown.frames == 3
    assert report.visual_tokens == int(
        ((inputs["input_ids"] == IMAGE) | (inputs["input_ids"] == VIDEO)).sum()
    )
    units = 36 if family == "llava_onevision" else 6
    assert len(shown.all) == 3 * units
    # Every frame is a segment of its own: each loses its share.
    left = round(0.7 * round(0.7 * units))
    for frame in range(3):
        assert int((shown.kept[1][:, 0] == frame).sum()) == left
    if family != "llava_onevision":
        assert len(shown.kept[3]) == round(0.7 * round(0.7 * 3 * left))
    assert tokens > len(shown.kept[3])


def test_interpolated_tiles_average_over_survivors():
    """A picture of more tiles than the limit is shrunk after the projector: 16 tiles of 36 to 18 x 18."""
    model = tiny_model("llava_onevision")
    inputs = prompt(model, [([5, 6, 7], [picture(model, (96, 90))])])
    report = exactly_merged(model, inputs)
    assert report.steps[0].before == 17 * 36
    assert report.final_tokens < 0.5 * report.visual_tokens
    (shown,) = report.pictures
    assert shown.kept[-1][:, 1:].isfinite().all()
    widths = shown.kept[-1][:, 3] - shown.kept[-1][:, 1]
    assert (widths > 0).all()


def resize(features, size):
    return torch.nn.functional.interpolate(features.movedim(-1, 1), size=size, mode="bilinear").movedim(1, -1)


@pytest.mark.parametrize("size", [(3, 4), (5, 5), (6, 8), (2, 2)])
def test_averaging_rows_respects_marks(size):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 8, 3, generator=generator)
    dropped = torch.rand(2, 6, 8, generator=generator) < 0.4
    # What the function does is linear: its weights, one input row at a time.
    weights = torch.zeros(2, size[0] * size[1], 48)
    for row in range(48):
        one = torch.zeros(2, 6, 8, 1)
        one.view(2, 48, 1)[:, row] = 1
        weights[:, :, row] = resize(one, size).reshape(2, -1)
    out = mark_through(lambda x: resize(x, size))(features.masked_fill(dropped[..., None], float("nan")))
    for b in range(2):
        for i in range(size[0] * size[1]):
            share = sum(float(weights[b, i, j]) for j in range(48) if not dropped.view(2, 48)[b, j])
            got = out.reshape(2, -1, 3)[b, i]
            if share < 0.5 - 1e-6:
                assert got.isnan().all()
            elif share > 0.5 + 1e-6:
                rows = features.view(2, 48, 3)[b]
                alive = [j for j in range(48) if not dropped.view(2, 48)[b, j]]
                expected = sum(weights[b, i, j] * rows[j] for j in alive) / share
                torch.testing.assert_close(got, expected)
    if size == (6, 8):
        assert torch.equal(marked(out), dropped)
        assert torch.equal(out[~dropped], features[~dropped]), "copied rows come out bit for bit"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_right_padding_gives_the_logits_of_left_padding(family, attention):
    model = tiny_model(family, attention)
    parts = pictures(model, 2)
    rows = [([5, 6, 7, 8, 9], parts[:1]), ([10, 11], parts[1:])]
    left = prompt(model, rows)
    right = dict(left)
    for index in range(2):
        pads = int((left["attention_mask"][index] == 0).sum())
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in right:
                right[name] = right[name].clone()
                right[name][index] = left[name][index].roll(-pads)
    with illava.accelerate(model, BOTH), torch.no_grad():
        expected = model(**left).logits[:, -1]
        # Padding stays behind its row, where the plain model has it.
        pads = (right["attention_mask"] == 0).sum(1)
        got = model(**right).logits[range(2), -1 - pads]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_given_as_embeddings(family):
    """Placeholders are found among embeddings as transformers finds them."""
    model = tiny_model(family)
    inputs = prompt(model, [([5, 6, 7], pictures(model, 1))])
    positions = {}
    if family != "llava_onevision":
        grids = {"image_grid_thw": inputs["image_grid_thw"], "mm_token_type_ids": inputs["mm_token_type_ids"]}
        positions = {"position_ids": model.model.get_rope_index(inputs["input_ids"], **grids)[0]}
    embeds = dict(inputs)
    embeds["inputs_embeds"] = model.get_input_embeddings()(embeds.pop("input_ids"))
    with illava.accelerate(model, BOTH), torch.no_grad():
        expected = model(**inputs).logits
        got = model(**embeds, **positions).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
