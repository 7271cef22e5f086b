"""Features encoded beforehand, and embeddings that hold some: whose report, and what is merged."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from transformers import AutoModelForImageTextToText

import illava
from tests.battery.test_battery import method_of
from tests.test_exact import BOTH, TEXTS
from tests.tiny import ALL, SIZES, config, kind, picture, prompt, tiny_model, video, video_prompt

SIZED = [name for name in ALL if len(SIZES[kind(tiny_model(name))]) > 1]


def encoded(model, inputs):
    """The features of a prompt's pictures, and the prompt without these."""
    names = ("pixel_values", "image_grid_thw", "image_sizes")
    shown = {name: inputs[name] for name in names if name in inputs}
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with torch.no_grad():
        return {"image": model.model.get_image_features(**shown)}, rest


@pytest.mark.parametrize("name", SIZED)
def test_the_report_is_of_the_features_that_were_handed_in(name):
    model = tiny_model(name)
    large, small = SIZES[kind(model)][:2]
    prompts = [prompt(model, [(TEXTS[0], [picture(model, size)])]) for size in (large, small)]
    with illava.accelerate(model, method_of(name)) as handle, torch.no_grad():
        expected = []
        for inputs in prompts:
            model(**inputs)
            expected.append(handle.report.to_dict())
        features = [encoded(model, inputs) for inputs in prompts]
        for wanted, (outputs, rest) in zip(expected, features, strict=True):
            model(**rest, mm_encoder_outputs=dict(outputs))
            assert handle.report.to_dict() == wanted
        for wanted, (outputs, rest) in zip(expected, features, strict=True):
            model.generate(**rest, mm_encoder_outputs=dict(outputs), max_new_tokens=2, do_sample=False)
            assert handle.report.to_dict() == wanted


@pytest.mark.parametrize("name", ["qwen2_vl", "llava", "llava_onevision", "internvl", "gemma3"])
def test_outputs_hold_a_row_for_every_placeholder(name):
    """NaN where a token was dropped, as get_image_features has it, so that they can be handed in again."""
    model = tiny_model(name)
    inputs = prompt(model, [(TEXTS[0], [picture(model, SIZES[kind(model)][0])])])
    with illava.accelerate(model, BOTH) as handle, torch.no_grad():
        out = model(**inputs)
        outputs, rest = encoded(model, inputs)
        shown = getattr(out, "image_outputs", None)
        if shown is None:
            pytest.skip("this release of transformers returns no features")
        rows, again = (torch.cat(list(one.pooler_output)) for one in (shown, outputs["image"]))
        assert torch.equal(rows.isnan(), again.isnan())
        assert len(rows) - int(rows[:, 0].isnan().sum()) == handle.report.llm_tokens[0]
        repeated = model(**rest, mm_encoder_outputs={"image": shown})
        assert torch.equal(repeated.logits, out.logits)


def embedded(model, inputs, outputs):
    """Embeddings of a prompt with its features in place."""
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach().clone()
    rows = torch.cat(list(outputs["image"].pooler_output))
    embeds[inputs["input_ids"] == model.config.image_token_id] = rows
    return embeds


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "glm4v"])
@pytest.mark.parametrize("stage", ["both", "llm"])
def test_embeddings_whose_pictures_are_known(name, stage):
    model = tiny_model(name)
    inputs = prompt(model, [(TEXTS[0], [picture(model, (5, 6))])])
    method = BOTH if stage == "both" else illava.Illava(encoder_layers=(), llm_layers=(1, 3), llm_keep=0.7)
    places = torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)
    with illava.accelerate(model, method) as handle, torch.no_grad():
        expected = model(**inputs, position_ids=places).logits
        final = handle.report.final_tokens
        outputs, rest = encoded(model, inputs)
        embeds = embedded(model, inputs, outputs)
        rest = {k: rest[k] for k in ("attention_mask", "mm_token_type_ids")}
        found = model(inputs_embeds=embeds, position_ids=places, **rest).logits
        assert torch.equal(found, expected)
        assert handle.report.final_tokens == final


def test_embeddings_whose_pictures_are_not_known():
    model = tiny_model("llava")
    inputs = prompt(model, [(TEXTS[0], [picture(model, (1, 1))])])
    outputs, _ = encoded(model, inputs)
    embeds = embedded(model, inputs, outputs)
    with torch.no_grad():
        plain = model(inputs_embeds=embeds).logits
        with illava.accelerate(model, BOTH):
            with pytest.warns(UserWarning, match="is not merged"):
                assert torch.equal(model(inputs_embeds=embeds).logits, plain)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                model(inputs_embeds=embeds)
            marked = embedded(model, inputs, encoded(model, inputs)[0])
            with pytest.raises(illava.UnsupportedError, match="input_ids"):
                model(inputs_embeds=marked)


def test_features_of_another_model_that_are_not_numbers():
    """NaN of a plain model's features is no mark; nor can a copy of marked ones be told from it."""
    model = tiny_model("llava")
    inputs = prompt(model, [(TEXTS[0], [picture(model, (1, 1))])])
    plain, rest = encoded(model, inputs)
    with illava.accelerate(model, BOTH), torch.no_grad():
        model(**rest, mm_encoder_outputs=dict(plain))
        plain["image"].pooler_output[0][3] = torch.nan
        with pytest.raises(illava.UnsupportedError, match="not the objects returned by get_image_features"):
            model(**rest, mm_encoder_outputs=dict(plain))
        made, _ = encoded(model, inputs)
        model(**rest, mm_encoder_outputs=dict(made))
        with pytest.raises(illava.UnsupportedError, match="not the objects returned by get_image_features"):
            model(**rest, mm_encoder_outputs=copy.deepcopy(made))


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_onevision", "internvl"])
def test_models_whose_hooks_copy_what_they_are_handed(name):
    """accelerate's, of a model that is spread over devices, make new objects of all arguments."""
    model = tiny_model(name)
    inputs = prompt(model, [(TEXTS[0], [picture(model, SIZES[kind(model)][0])])])
    options = dict(max_new_tokens=4, do_sample=False)
    with torch.no_grad(), illava.accelerate(model, BOTH) as handle:
        expected, report = model.generate(**inputs, **options), handle.report.to_dict()
    for module in (model, model.model, model.model.language_model):
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    with torch.no_grad(), illava.accelerate(model, BOTH) as handle:
        assert torch.equal(model.generate(**inputs, **options), expected)
        assert handle.report.to_dict() == report
        outputs, rest = encoded(model, inputs)
        model(**rest, mm_encoder_outputs=dict(outputs))
        assert handle.report.to_dict() == report


def test_marked_features_under_a_method_that_marks_none():
    """As an earlier handle made them: whoever attends to NaN answers nothing."""
    model = tiny_model("llava")
    inputs = prompt(model, [(TEXTS[0], [picture(model, (1, 1))])])
    with illava.accelerate(model, BOTH):
        made, rest = encoded(model, inputs)
    for method in (illava.FastV(layer=1, keep=0.5), illava.Illava(keep=1.0)):
        refused = pytest.raises(
            illava.UnsupportedError, match="not the objects returned by get_image_features"
        )
        with illava.accelerate(model, method), torch.no_grad(), refused:
            model(**rest, mm_encoder_outputs=dict(made))


def test_own_pictures_and_a_copied_video():
    model = tiny_model("qwen2_vl")
    inputs = video_prompt(model, [5, 6, 7], [picture(model, (5, 6))], video(model, 2))
    shown = {"pixel_values_videos": inputs["pixel_values_videos"], "video_grid_thw": inputs["video_grid_thw"]}
    with illava.accelerate(model, BOTH), torch.no_grad():
        made, rest = encoded(model, inputs)
        rest = {k: v for k, v in rest.items() if k != "pixel_values_videos"}
        made["video"] = model.model.get_video_features(**shown)
        model(**rest, mm_encoder_outputs=dict(made))
        made["video"] = copy.deepcopy(made["video"])
        with pytest.raises(illava.UnsupportedError, match="not the objects returned by get_image_features"):
            model(**rest, mm_encoder_outputs=dict(made))


def test_a_model_that_taps_no_block_merges():
    tapless = config("qwen3_vl")
    tapless.vision_config.deepstack_visual_indexes = []
    model = AutoModelForImageTextToText.from_config(tapless).eval()
    inputs = prompt(model, [([5, 6, 7, 8], [picture(model, (40, 30))])])
    with illava.accelerate(model, illava.Illava.best(1 / 2)) as handle, torch.no_grad():
        merged = model(**inputs).logits
        again = model(**inputs, use_cache=False).logits
    assert handle.report.final_tokens < handle.report.visual_tokens
    torch.testing.assert_close(merged[:, -1], again[:, -1], atol=1e-5, rtol=0)
