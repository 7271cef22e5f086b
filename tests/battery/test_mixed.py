"""Videos in batches and beside pictures, pictures that are very small, and one as large as a 4K screen."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import illava
from tests.battery.test_battery import CLOSE, RECURRENT, TEXTS, method_of, model_of
from tests.battery.test_selection import check_encoder, check_llm
from tests.test_exact import logits_of_steps
from tests.tiny import (
    ALL,
    IMAGE,
    MIXED_WINDOWS,
    RESAMPLED,
    VIDEO,
    WITH_VIDEO,
    kind,
    picture,
    pictures,
    prompt,
    tiny_model,
    together,
    video,
    video_prompt,
)

STEPS = 3


def exact(name: str, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, illava.Report]:
    """Merged logits and report, after comparing runs without a cache, with all kept, and undone."""
    plain, _ = logits_of_steps(model, inputs, STEPS)
    with illava.accelerate(model, keep=1.0):
        assert torch.equal(logits_of_steps(model, inputs, STEPS)[0], plain), "all kept"
    with illava.accelerate(model, method_of(name)) as handle:
        merged, _ = logits_of_steps(model, inputs, STEPS)
        report = handle.report
        anew, _ = logits_of_steps(model, inputs, STEPS, use_cache=False)
    assert torch.equal(logits_of_steps(model, inputs, STEPS)[0], plain), "undone"
    torch.testing.assert_close(merged, anew, atol=CLOSE.get(name, 1e-5), rtol=0)
    assert (merged - plain).abs().max() > 1e-3, "something must have gone"
    visual = (inputs["input_ids"] == IMAGE) | (inputs["input_ids"] == VIDEO)
    assert report.visual_tokens == int(visual.sum()) > report.final_tokens
    assert report.pictures
    return merged, report


def rows_with_videos(name: str, model: nn.Module) -> list[dict[str, Tensor]]:
    """Unequal numbers of pictures and videos, some of one frame, where their processors allow all that."""
    frames = (2, 2, 2) if kind(model) == "anyres" else (3, 1, 2)
    first, second, third = (video(model, n, seed) for seed, n in enumerate(frames))
    drawn = pictures(model, 3)
    if name.startswith("glm"):
        # Its frames have the placeholders of pictures: it takes only the one or the other.
        drawn = []
    return [
        video_prompt(model, TEXTS[0], drawn[:1], first),
        video_prompt(model, TEXTS[1], [], second, third),
        video_prompt(model, TEXTS[2], drawn[1:]),
    ]


@pytest.mark.parametrize("name", WITH_VIDEO)
def test_videos_and_pictures_in_a_batch(name: str) -> None:
    model = model_of(name, "sdpa")
    rows = rows_with_videos(name, model)
    merged, report = exact(name, model, together(rows))
    shown = []
    for index, row in enumerate(rows):
        if not any(key.startswith("pixel_values") for key in row):
            continue
        with illava.accelerate(model, method_of(name)) as handle:
            alone, _ = logits_of_steps(model, row, STEPS)
            shown += handle.report.pictures
        torch.testing.assert_close(merged[:, index], alone[:, 0], atol=CLOSE.get(name, 1e-5), rtol=0)
    # First all pictures, then all videos.
    shown.sort(key=lambda picture: picture.kind)
    kinds = ["image"] * 3 * (not name.startswith("glm")) + ["video"] * 3
    assert [picture.kind for picture in report.pictures] == kinds
    for reported, own in zip(report.pictures, shown, strict=True):
        assert torch.equal(reported.all, own.all)
        assert reported.frames == own.frames
        for step, kept in enumerate(reported.kept):
            assert torch.equal(kept, own.kept[step])


@pytest.mark.parametrize("name", ALL)
def test_pictures_too_small_to_drop_anything_change_no_bit(name: str) -> None:
    model = model_of(name, "sdpa")
    # One unit, or where tiles are what they are a share that rounds to all of them.
    units = kind(model) in ("grid", "patches", "lines")
    size = {"anyres": (24, 24)}.get(kind(model), (1, 1))
    keep, llm_keep = (0.3, 0.3) if units else (0.99, 0.995)
    if name in ("mistral3", "lighton_ocr"):
        # It cannot run on one unit, without anything of ours.
        size, keep, llm_keep = (1, 2), 0.99, 0.99
    inputs = prompt(model, [(TEXTS[0], [picture(model, size)])])
    plain, _ = logits_of_steps(model, inputs, STEPS)
    layers = () if name in RECURRENT else (2, 4)
    method = illava.Illava(encoder_layers=(1, 3), encoder_keep=keep, llm_layers=layers, llm_keep=llm_keep)
    with illava.accelerate(model, method) as handle:
        same, _ = logits_of_steps(model, inputs, STEPS)
        report = handle.report
    assert torch.equal(same[0], plain[0])
    # Decoding on Gemma 3's cache, the library hands SDPA a mask where transformers hands none.
    torch.testing.assert_close(same, plain, atol=1e-5 if name in ("gemma3", *MIXED_WINDOWS) else 0, rtol=0)
    assert report.final_tokens == report.visual_tokens
    assert all(len(kept) == len(report.pictures[0].all) for kept in report.pictures[0].kept[:2])


LARGE = {"anyres": (2160, 3840), "tiles": (13, 1), "marked_tiles": (37, 1)}
"""3840 x 2160 pixels cut up as the processors do it: 4 x 3 tiles and the whole, 9 x 4 and the whole; else
units of 180 pixels."""


@functools.cache
def model_of_large_pictures(name: str, attention: str) -> nn.Module:
    # Pixtral has rotary tables for so many pixels.
    more = {"image_size": 256} if name in ("llava-pixtral", "mistral3", "lighton_ocr") else {}
    return tiny_model(name, attention, **more)


@pytest.mark.parametrize(
    "name", [name for name in ALL if kind(model_of(name, "eager")) != "square" and "moe" not in name]
)
def test_a_picture_of_a_4k_screen(name: str) -> None:
    model = model_of_large_pictures(name, "sdpa")
    part = picture(model, LARGE.get(kind(model), (12, 21)))
    inputs = prompt(model, [(TEXTS[0], [part])])
    _, report = exact(name, model, inputs)
    assert sum(len(shown.all) for shown in report.pictures) >= 117
    for shown in report.pictures:
        # Units of the encoder may lie on what fills a tile up.
        for kept in shown.kept[2 * (kind(model) == "anyres") :]:
            assert (kept[:, 1:3] < 1).all()
            assert (kept[:, 3:] > 0).all()
    eager = model_of_large_pictures(name, "eager")
    check_encoder(eager, model, inputs)
    if name not in (*RECURRENT, *RESAMPLED):
        check_llm(eager, model, inputs)
