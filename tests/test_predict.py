"""Predictions from sizes against what a pass really did, as its report says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from transformers import AutoConfig

import illava
from illava.bench import prompts
from illava.bench.published import config as published
from illava.models.layout import resized, workload
from illava.models.located import locate
from illava.planning.predict import predict, predict_on, skeleton
from tests.battery.shown import canvases
from tests.published import CONFIGS
from tests.test_exact import TEXTS
from tests.tiny import (
    ALL,
    WITH_VIDEO,
    config,
    kind,
    picture,
    prompt,
    tiny_model,
    video,
    video_prompt,
)

METHODS = {
    "published": illava.Illava(),
    "1/3": illava.Illava(keep=1 / 3),
    "best": illava.Illava.best(1 / 3),
    "fastv": illava.FastV(),
    "pyramiddrop": illava.PyramidDrop(),
    "sparsevlm": illava.SparseVLM(keep=1 / 4),
    "dart": illava.DART(keep=1 / 4),
    "visionzip": illava.VisionZip(keep=1 / 4),
    "prumerge": illava.PruMergePlus(keep=1 / 4),
    "fastervlm": illava.FasterVLM(keep=1 / 4),
    "vispruner": illava.VisPruner(keep=1 / 4),
    "divprune": illava.DivPrune(keep=1 / 4),
    "mmtok": illava.MMTok(keep=1 / 4),
    "tome": illava.ToMe(keep=1 / 3),
    "random": illava.Random(keep=1 / 4),
    "pool": illava.Pool(keep=1 / 4),
    "downsample": illava.Downsample(keep=1 / 4),
    "compose": illava.Compose((illava.ToMe(keep=1 / 2), illava.FastV(keep=1 / 4))),
}
# Which rows of a padded picture stay, how a window empties, and which line of a picture a unit was on depends
# on the picture: there costs are near, not equal.
UNEVEN = ("llava_onevision", "llava_next", "llava_next_video", "qwen2_5_vl", "mistral3", "llava-pixtral")
UNEVEN += ("lighton_ocr", "qwen2_5_omni_thinker", "exaone4_5", "hyperclovax_vision_v2")
# What a sliding window still holds is counted in columns of the full prompt.
UNEVEN += ("paligemma-2",)
IN_THE_LLM = ("pyramiddrop", "sparsevlm", "dart", "fastv", "compose")


def refused(modules, name):
    """Whether docs/support.md lists the pair as not supported."""
    kind = modules.family.model_type
    if name == "downsample":
        if modules.tower.any_size:
            return False
        return not modules.tower.packed or kind in ("llava", "mistral3", "lighton_ocr")
    if kind == "gemma3":
        return name in ("pyramiddrop", "pool")
    if kind.startswith("qwen3_5"):
        return name in IN_THE_LLM
    return name == "pool" and kind == "qwen2_5_vl"


def ran(model, method, inputs):
    with illava.accelerate(model, method) as handle, torch.no_grad():
        model(**inputs)
    return handle.report


def compare(family, prediction, report, within=0.06):
    assert [(s.stage, s.layer) for s in prediction.steps] == [(s.stage, s.layer) for s in report.steps]
    assert prediction.visual_tokens == report.visual_tokens
    assert prediction.plain_cost == report.plain_cost
    if family.removesuffix("-dinov2") in UNEVEN:
        assert prediction.cost.total == pytest.approx(report.cost.total, rel=within)
        assert prediction.cost.kv_bytes == pytest.approx(report.cost.kv_bytes, rel=0.2)
        return
    assert prediction.steps == report.steps
    assert prediction.llm_tokens == report.llm_tokens
    assert prediction.cost == report.cost


# Every method on each kind of geometry, and what acts in both stages on every family.
MECHANISMS = (
    "llava",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
    "internvl",
    "gemma3",
)
PAIRS = [(family, name) for family in MECHANISMS for name in METHODS]
PAIRS += [(family, name) for family in ALL if family not in MECHANISMS for name in ("1/3", "best", "compose")]
PAIRS += [("llava-dinov2", "downsample")]


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_a_prediction_is_what_the_pass_does(family, name):
    model, method = tiny_model(family), METHODS[name]
    modules = locate(model)
    # Idefics' processor enlarges a picture to four tiles in any case.
    some = canvases(model)[:1] if kind(model) == "marked_tiles" else canvases(model)
    for canvas in some:
        shown = picture(model, canvas.size)
        inputs = prompt(model, [(TEXTS[0], [shown])])
        height, width = canvas.pixels
        work = workload(modules, (width, height))
        assert work.visual_tokens == shown.tokens
        work = replace(work, text=inputs["input_ids"].shape[1] - shown.tokens)
        if refused(modules, name):
            with pytest.raises(illava.UnsupportedError):
                ran(model, method, inputs)
            continue
        report = ran(model, method, inputs)
        compare(family, predict_on(modules, method, work), report)


@pytest.mark.parametrize("family", WITH_VIDEO)
def test_a_prediction_of_a_video(family):
    model, method = tiny_model(family), illava.Illava(keep=1 / 3)
    modules = locate(model)
    shown = video(model, 4)
    inputs = video_prompt(model, TEXTS[0], [], shown)
    steps = 4 * getattr(modules.config.vision_config, "temporal_patch_size", 1)
    unit = (
        24
        if "pack_image_features" in modules.family.row_mixers
        else 2 * modules.config.vision_config.patch_size
    )
    work = workload(modules, (3 * unit, 2 * unit) if unit != 24 else 24, frames=steps)
    work = replace(work, text=inputs["input_ids"].shape[1] - work.visual_tokens)
    report = ran(model, method, inputs)
    prediction = predict_on(modules, method, work)
    if family in ("llava_onevision", "llava_next_video"):
        # Pooled: a place stays where survivors make up half of it.
        assert prediction.cost.encoder == report.cost.encoder
        assert prediction.cost.total == pytest.approx(report.cost.total, rel=0.1)
    else:
        compare(family, prediction, report)


def test_several_pictures_and_rows_are_as_many_times_one():
    modules = locate(tiny_model("qwen2_vl"))
    one = predict_on(modules, METHODS["1/3"], workload(modules, 64, prompt_tokens=10))
    rows = predict_on(modules, METHODS["1/3"], workload(modules, 64, prompt_tokens=10, batch=3))
    for name in ("encoder", "projector", "prefill", "kv_bytes", "decode"):
        assert getattr(rows.cost, name) == 3 * getattr(one.cost, name)
    assert rows.final_tokens == 3 * one.final_tokens
    two = predict_on(modules, METHODS["1/3"], workload(modules, 64, pictures=2, prompt_tokens=20))
    assert two.cost.encoder == 2 * one.cost.encoder
    assert two.cost.kv_bytes == 2 * one.cost.kv_bytes
    # Attention between them comes on top.
    assert two.cost.prefill > 2 * (one.cost.prefill - one.cost.decode)


@pytest.mark.parametrize("family", ALL)
def test_a_config_alone_predicts_the_same(family):
    model = tiny_model(family)
    assert predict(config(family), keep_third(), picture_size=48) == predict(
        model, keep_third(), picture_size=48
    )


def keep_third():
    return METHODS["1/3"]


SIZES = ((672, 672), (1000, 290), (333, 777), (1344, 1008))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("Qwen/Qwen2-VL-7B-Instruct", "qwen"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen"),
        ("OpenGVLab/InternVL3-1B-hf", "internvl"),
        ("HuggingFaceM4/Idefics3-8B-Llama3", "idefics3"),
        ("mistralai/Mistral-Small-3.1-24B-Base-2503", "mistral3"),
    ],
)
def test_pictures_are_cut_up_as_the_processors_do(name, make, size):
    stated = {**CONFIGS[name]}
    modules = skeleton(AutoConfig.for_model(stated.pop("model_type"), **stated))
    width, height = size
    work = workload(modules, size)
    pixels = torch.zeros(3, height, width)
    plain = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    if make == "qwen":
        made = transformers.Qwen2VLImageProcessor(size={"shortest_edge": 1, "longest_edge": 10**8})
        t, h, w = made(images=[pixels], **plain)["image_grid_thw"][0].tolist()
        assert (t, (h // 2, w // 2)) == (1, work.grids[0])
    elif make == "internvl":
        made = transformers.GotOcr2ImageProcessor(size={"height": 448, "width": 448})
        tiles = made(images=[pixels], crop_to_patches=True, min_patches=1, max_patches=12, **plain)
        assert len(tiles["pixel_values"]) == len(work.segments)
    elif make == "idefics3":
        made = transformers.Idefics3ImageProcessor()
        assert made(images=[pixels], **plain)["pixel_values"].shape[1] == len(work.segments)
    else:
        made = transformers.PixtralImageProcessor(
            patch_size={"height": 28, "width": 28}, size={"longest_edge": 10**5}
        )
        h, w = made(images=[pixels], **plain)["image_sizes"][0]
        assert work.grids[0] == (h // 28, w // 28)


def test_errors_say_what_would_be_right():
    made = config("qwen2_vl")
    for bad in ({"picture_size": 67.5}, {"picture_size": (3, 4, 5)}, {"pictures": 1.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            predict(made, **bad)
    with pytest.raises(ValueError, match="frames of one video"):
        predict(made, pictures=2, frames=4)
    for bad in ({"picture_size": 0}, {"pictures": 0}, {"batch": 0}, {"prompt_tokens": 0}, {"frames": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            predict(made, **bad)
    with pytest.raises(illava.UnsupportedError, match="videos"):
        predict(config("paligemma"), frames=4)


@pytest.mark.parametrize("size", [(30, 30), (672, 448), (90, 1000), (6000, 5000)])
@pytest.mark.parametrize(
    "name", ["qwen2-vl-2b", "qwen2.5-vl-3b", "qwen3-vl-2b", "internvl3-2b", "llava-onevision-7b"]
)
def test_workloads_and_made_up_prompts_cut_pictures_up_alike(name, size):
    modules = skeleton(published(name))
    work = workload(modules, resized(modules.config, size))
    inputs = prompts.make(modules.config, size=size)
    assert work.visual_tokens == prompts.count(inputs["input_ids"], modules.config)


def test_a_strip_is_refused_as_by_the_processor():
    qwen = published("qwen2-vl-2b")
    for what in (lambda: predict(qwen, picture_size=(10, 4000)), lambda: resized(qwen, (10, 4000))):
        with pytest.raises(ValueError, match="200"):
            what()
    predict(published("internvl3-2b"), picture_size=(10, 4000))


def test_several_pictures_of_onevision_are_not_cut_up():
    modules = skeleton(published("llava-onevision-0.5b"))
    assert len(workload(modules, 672).segments) > 1
    for count in (2, 3):
        work = workload(modules, 672, pictures=count)
        inputs = prompts.make(modules.config, size=(672, 672), pictures=count)
        assert work.visual_tokens == prompts.count(inputs["input_ids"], modules.config)
        assert work.segments == (729,) * count


@pytest.mark.parametrize(("name", "frames"), [("internvl3-2b", 5), ("qwen3-vl-2b", 6), ("qwen2-vl-2b", 4)])
def test_videos_take_as_many_tokens_as_made_up_prompts(name, frames):
    modules = skeleton(published(name))
    size = resized(modules.config, (448, 448))
    work = workload(modules, size, frames=frames)
    inputs = prompts.make(modules.config, size=(448, 448), frames=frames)
    assert work.visual_tokens == prompts.count(inputs["input_ids"], modules.config)
    assert work.visual_tokens + work.text == inputs["input_ids"].shape[1]
