"""The library against the reference where features enter the LLM late, windows cut, or rows are averaged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from .comparing import BOTH, CLOSE, ENCODER, LLM, NEAR, TEXT, check, check_rows, model_of, plan_of
from .reference import Plan, run
from .tiny import IMAGE, PAD, VIDEO, Picture, pictures, prompt, row, tiny_model, video

LONG = [*range(5, 15)]
STAGES = {"encoder": ENCODER, "llm": LLM, "both": {**BOTH, "recycle": 0.3}}
every_stage = pytest.mark.parametrize("settings", STAGES.values(), ids=STAGES)


def behind(settings: dict) -> dict:
    """The same with its LLM steps behind the layers that take in features of the full prompt."""
    return {**settings, "llm_layers": tuple(layer + 1 for layer in settings["llm_layers"])}


def with_videos(model: nn.Module, rows: list[tuple[list[int], list[Picture]]]) -> dict[str, Tensor]:
    """As ``prompt``, for rows that hold pictures and videos."""
    parts = [part for _, row_parts in rows for part in row_parts]
    shown = [part.values for part in parts if "pixel_values" not in part.values]
    inputs = prompt(model, [(text, [p for p in some if "pixel_values" in p.values]) for text, some in rows])
    ids = [row(text, some) for text, some in rows]
    length = max(map(len, ids))
    inputs["input_ids"] = torch.tensor([[PAD] * (length - len(r)) + r for r in ids])
    inputs["attention_mask"] = torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in ids])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
        inputs["mm_token_type_ids"] += 2 * (inputs["input_ids"] == VIDEO).int()
    return inputs | {name: torch.cat([values[name] for values in shown]) for name in shown[0]}


@every_stage
@pytest.mark.parametrize("counts", [(1,), (2, 0, 1)])
@pytest.mark.parametrize("family", ["llava_next_video", "mistral3"])
def test_pictures(family: str, counts: tuple[int, ...], settings: dict) -> None:
    check_rows(family, settings, counts)


# -- deepstack ---------------------------------------------------------------------------------------


@every_stage
@pytest.mark.parametrize("counts", [(1,), (2, 0, 1)])
def test_deepstack(counts: tuple[int, ...], settings: dict) -> None:
    check_rows("qwen3_vl", behind(settings), counts)


@pytest.mark.parametrize("blocks", [(0, 2), (2, 4)])
def test_deepstack_taps_between_merges(blocks: tuple[int, ...]) -> None:
    """What is tapped early has rows of units that merge away later."""
    check_rows("qwen3_vl", {**behind(BOTH), "encoder_layers": blocks, "recycle": 0.3}, (2,))


@every_stage
def test_deepstack_video_frames_are_runs_of_their_own(settings: dict) -> None:
    model = model_of("qwen3_vl")
    drawn = pictures(tiny_model("qwen3_vl"), 2)
    parts = [[drawn[0], video(model, 3)], [], [video(model, 2, seed=1), drawn[1]]]
    rows = [(TEXT[: 3 + i], row_parts) for i, row_parts in enumerate(parts)]
    check(model, with_videos(model, rows), parts, behind(settings))


# -- sliding windows, pictures that see themselves whole -------------------------------------------


@every_stage
@pytest.mark.parametrize("counts", [(2,), (2, 0, 1)])
@pytest.mark.parametrize("layers", ["behind windows", "behind full layers"])
def test_windows(layers: str, counts: tuple[int, ...], settings: dict) -> None:
    if layers == "behind full layers":
        settings = behind(settings)
    check_rows("gemma3", settings, counts, text=LONG)


@every_stage
def test_the_windows_of_these_prompts_cut(settings: dict) -> None:
    """Without windows the reference says something else, so a library without them would not pass."""
    model = model_of("gemma3")
    parts = pictures(tiny_model("gemma3"), 2)
    ids = row(LONG, parts)
    wide = copy.deepcopy(model)
    wide.config.text_config.sliding_window = len(ids)
    narrow, open_ = (
        run(one, ids, [p.values for p in parts], plan_of(settings), len(ids)) for one in (model, wide)
    )
    assert (narrow.logits[-1] - open_.logits[-1]).abs().max() > 100 * NEAR


# -- rows that are averaged ------------------------------------------------------------------------


@every_stage
@pytest.mark.parametrize("unequal", [False, True])
def test_pooled_videos(unequal: bool, settings: dict) -> None:
    model = model_of("llava_next_video")
    drawn = pictures(tiny_model("llava_next_video"), 2)
    parts = [[video(model, 3)]]
    if unequal:
        parts = [[drawn[0], video(model, 2)], [], [video(model, 2, seed=1), drawn[1]]]
    rows = [(TEXT[: 3 + i], row_parts) for i, row_parts in enumerate(parts)]
    check(model, with_videos(model, rows), parts, settings)


@pytest.mark.parametrize("family", ["qwen3_vl", "llava_next_video"])
def test_the_reference_is_the_plain_model_on_videos(family: str) -> None:
    model = model_of(family)
    parts = [*pictures(tiny_model(family), 1), video(model, 3)]
    inputs = with_videos(model, [(TEXT, parts)])
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    with torch.no_grad():
        plain = model(**inputs).logits[0]
    ids = inputs["input_ids"][0].tolist()
    reference = run(model, ids, [p.values for p in parts], Plan(), len(ids))
    assert (reference.logits - plain).abs().max() < CLOSE
