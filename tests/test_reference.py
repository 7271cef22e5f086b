"""The library computes what a reference at full length computes, on tiny random models."""

from __future__ import annotations

import pytest
import torch

from .comparing import BOTH, CLOSE, ENCODER, LLM, NEAR, TEXT, check, check_rows, model_of
from .reference import Plan, run
from .tiny import END, IMAGE, START, VIDEO, Picture, picture, pictures, prompt, tiny_model

DINOV2 = ("llava-dinov2", "llava-dinov2-full", "llava-dinov2-registers")


@pytest.mark.parametrize(
    "family",
    [
        "qwen2_vl",
        "qwen2_5_vl",
        "llava_onevision",
        "llava",
        "internvl",
        "idefics3",
        "qwen3_vl",
        "gemma3",
        "llava_next_video",
        "mistral3",
        *DINOV2,
    ],
)
def test_the_reference_is_the_plain_model_where_nothing_merges(family: str) -> None:
    model = model_of(family)
    parts = pictures(tiny_model(family), 2)
    ids = prompt(model, [(TEXT, parts)])
    ids = {name: value.double() if value.is_floating_point() else value for name, value in ids.items()}
    with torch.no_grad():
        plain = model(**ids).logits[0]
    tokens = ids["input_ids"][0].tolist()
    reference = run(model, tokens, [p.values for p in parts], Plan(), len(tokens))
    assert (reference.logits - plain).abs().max() < CLOSE


@pytest.mark.parametrize("recycle", [0.05, 0.5])
@pytest.mark.parametrize("reduce", ["recycle", "drop", "weighted"])
def test_reductions(reduce: str, recycle: float) -> None:
    check_rows("qwen2_vl", {**BOTH, "reduce": reduce, "recycle": recycle}, (2,))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("counts", [(1,), (2,), (1, 0, 2)])
def test_rows_and_attention(counts: tuple[int, ...], attention: str) -> None:
    check_rows("qwen2_vl", {**BOTH, "recycle": 0.3}, counts, attention)


@pytest.mark.parametrize(
    "settings",
    [
        ENCODER,
        LLM,
        {**BOTH, "encoder_layers": (1, 2), "llm_layers": (1, 2)},
        {**BOTH, "encoder_keep": (0.8, 0.5), "llm_keep": (0.9, 0.4)},
        {**BOTH, "encoder_layers": (0, 4), "llm_layers": (2, 4)},
        {**BOTH, "encoder_keep": 0.01, "llm_keep": 0.5},
        {**BOTH, "encoder_keep": 0.9, "llm_keep": 0.1},
        {**BOTH, "neighbours": 1, "recycle": 1.0},
        {**BOTH, "neighbours": 50, "recycle": 0.5, "encoder_keep": 0.4},
    ],
    ids=[
        "encoder",
        "llm",
        "consecutive",
        "uneven",
        "outer",
        "one unit",
        "few",
        "one neighbour",
        "all neighbours",
    ],
)
def test_schedules(settings: dict) -> None:
    check_rows("qwen2_vl", settings, (2,))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
@pytest.mark.parametrize("settings", [ENCODER, LLM, {**BOTH, "recycle": 0.3}], ids=["encoder", "llm", "both"])
def test_other_families(family: str, settings: dict) -> None:
    check_rows(family, settings, (2, 0, 1) if settings["encoder_layers"] and settings["llm_layers"] else (1,))


# Class tokens, registers, units that are squares of a grid, and layer scale.
@pytest.mark.parametrize("family", ["llava", "llava-full", "internvl", "idefics3", *DINOV2])
@pytest.mark.parametrize("settings", [ENCODER, LLM, {**BOTH, "recycle": 0.3}], ids=["encoder", "llm", "both"])
def test_towers_of_tiles(family: str, settings: dict) -> None:
    check_rows(family, settings, (2, 0, 1) if settings["encoder_layers"] and settings["llm_layers"] else (1,))


@pytest.mark.parametrize("reduce", ["drop", "weighted"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_other_families_reductions(family: str, reduce: str) -> None:
    check_rows(family, {**BOTH, "reduce": reduce}, attention="eager")


def test_windows_score_by_what_a_token_receives_in_all() -> None:
    """A mean within each window would favour the tokens of small windows at the border."""
    check_rows("qwen2_5_vl", {**BOTH, "encoder_layers": (0, 3), "encoder_keep": 0.6})


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_video_frames_are_segments_of_the_encoder_and_one_run_of_the_llm(family: str) -> None:
    model = model_of(family)
    frames, (rows, columns) = 3, (3, 4)
    generator = torch.Generator().manual_seed(1)
    values = {
        "pixel_values_videos": torch.randn(frames * rows * columns * 4, 96, generator=generator),
        "video_grid_thw": torch.tensor([[frames, 2 * rows, 2 * columns]]),
    }
    ids = torch.tensor([[1, 5, START, *[VIDEO] * frames * rows * columns, END, *TEXT]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **values}
    if family == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([1.0 / model.config.vision_config.tokens_per_second])
    inputs["mm_token_type_ids"] = (ids == VIDEO).int() * 2
    check(
        model, inputs, [[Picture(values, [VIDEO] * frames * rows * columns)]], {**BOTH, "recycle": 0.3}, NEAR
    )


@pytest.mark.parametrize("family", ["llava_onevision", "llava-dinov2-registers"])
def test_pictures_side_by_side_are_one_run_of_the_llm(family: str) -> None:
    model = model_of(family)
    parts = pictures(tiny_model(family), 2)
    inputs = prompt(model, [(TEXT, parts)])
    ids = [1, *[IMAGE] * sum(p.tokens for p in parts), *TEXT]
    inputs["input_ids"] = torch.tensor([ids])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    check(model, inputs, [parts], BOTH, NEAR)


def test_a_picture_of_one_unit() -> None:
    model = model_of("qwen2_vl")
    parts = [picture(model, (1, 1)), picture(model, (1, 2), seed=1)]
    check(model, prompt(model, [(TEXT, parts)]), [parts], BOTH)


def test_single_precision() -> None:
    check_rows("qwen2_vl", BOTH, (2, 1), dtype=torch.float32)
