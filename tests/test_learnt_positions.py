"""DINOv2 in LLaVA: the processor decides on the number of tokens, not the positions that were learnt."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from PIL import Image
from typer.testing import CliRunner

import illava
from illava.cli.app import app
from illava.errors import UnsupportedError
from illava.io.prompts import as_seen, build_prompt
from illava.methods.presets import make_method
from illava.models.dimensions import tiled_encoder
from illava.models.loading import load
from tests.learnt_positions import LEARNT, PATCH, save
from tests.tiny import pictures, prompt, tiny_model

SIZE = (640, 480)
METHOD = illava.Illava(encoder_layers=(1, 3), encoder_keep=0.7, llm_layers=(2, 4), llm_keep=0.6)


def picture(size=SIZE) -> Image.Image:
    noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(0))
    return Image.fromarray(noise.to(torch.uint8).numpy())


def report_of(folder, size=SIZE, **options) -> illava.Report:
    model, processor = load(str(folder))
    inputs = build_prompt(processor, [picture(size)], "what is this")
    with torch.no_grad(), illava.accelerate(model, METHOD, **options) as handle:
        model(**inputs)
        return handle.report


@pytest.mark.parametrize(("pixels", "units"), [(224, 256), (336, 576), (448, 1024)])
def test_predicted_is_what_the_processor_gives(tmp_path, pixels, units) -> None:
    report = report_of(save(tmp_path, pixels))
    assert report.visual_tokens == units
    model, _ = load(str(tmp_path))
    text = report.token_counts[1].prefill.tokens[0] - units
    for subject in (model, model.config):
        found = illava.predict(subject, METHOD, prompt_tokens=text)
        assert (found.steps, found.llm_tokens) == (report.steps, report.llm_tokens)
        assert found.cost == report.cost
        assert illava.plan(subject, keep=1 / 3).prediction.visual_tokens == units
    # A size that is given is that of the pixels.
    assert illava.predict(model, METHOD, picture_size=(PATCH * 10, PATCH * 7)).visual_tokens == 70
    with pytest.raises(ValueError, match="at least 14 pixels"):
        illava.predict(model, METHOD, picture_size=13)


def test_commands(tmp_path) -> None:
    folder, image = str(save(tmp_path / "model", 224, registers=4)), str(tmp_path / "picture.png")
    picture().save(image)

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.stdout

    found = json.loads(run("plan", folder, "--keep", "1/3", "--size", "640x480", "--json"))
    assert (found["picture_size"], found["prediction"]["visual_tokens"]) == ([224, 224], 260)
    assert "640 x 480 pixels to 224 x 224" in run("plan", folder, "--keep", "1/3", "--size", "640x480")
    assert "260 visual tokens, at 224 x 224 pixels" in run("info", folder)
    asked = json.loads(
        run("ask", image, "what is this", "--model", folder, "--compare", "--rounds", "1", "--json")
    )
    assert asked["report"]["visual_tokens"] == 260
    run("look", image, "--model", folder, "--keep", "1/3", "--output", str(tmp_path / "look"))


def test_without_a_processor_the_config_states_the_size(tmp_path, recwarn) -> None:
    model = tiny_model("llava-dinov2", patch_size=PATCH, image_size=LEARNT * PATCH)
    assert illava.predict(model, METHOD).visual_tokens == LEARNT**2
    model.save_pretrained(tmp_path)
    assert illava.predict(transformers.AutoConfig.from_pretrained(tmp_path)).visual_tokens == LEARNT**2
    assert not [one for one in recwarn if "processor" in str(one.message)]


def _truncated(folder) -> None:
    file = folder / "processor_config.json"
    file.write_text(file.read_text()[:200])


def _of_two_colours(folder) -> None:
    file = folder / "processor_config.json"
    read = json.loads(file.read_text())
    read["image_processor"]["image_mean"] = [0.5, 0.5]
    file.write_text(json.dumps(read))


@pytest.mark.parametrize("damage", [_truncated, _of_two_colours])
def test_a_broken_processor_is_named(tmp_path, damage) -> None:
    config = transformers.AutoConfig.from_pretrained(save(tmp_path, 224))
    damage(tmp_path)
    side = LEARNT * PATCH
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"the processor of {tmp_path} cannot be read: ") as said:
            assert illava.predict(config).visual_tokens == LEARNT**2
        assert str(said[0].message).endswith(f"; the config's size of {side} px is assumed")
        assert "\n" not in str(said[0].message)
    for command in (["info"], ["plan", "--keep", "1/3"]):
        result = CliRunner().invoke(app, [*command[:1], str(tmp_path), *command[1:]])
        assert result.exit_code == 0, result.output
        assert result.stderr.count(f"illava: warning: the processor of {tmp_path} cannot be read: ") == 1


def test_a_folder_that_is_gone_is_named(tmp_path, monkeypatch) -> None:
    save(tmp_path / "here" / "model", 224)
    monkeypatch.chdir(tmp_path / "here")
    config = transformers.AutoConfig.from_pretrained("model")
    assert illava.predict(config).visual_tokens == 256
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=f"the processor of model .* there is no folder {tmp_path}/model;"):
        assert illava.predict(config).visual_tokens == LEARNT**2


def test_a_folder_that_gets_another_processor(tmp_path) -> None:
    config = transformers.AutoConfig.from_pretrained(save(tmp_path, 224))
    assert illava.predict(config).visual_tokens == 256
    save(tmp_path, 336)
    assert illava.predict(config).visual_tokens == 576


def test_pictures_need_not_be_squares(tmp_path) -> None:
    report = report_of(save(tmp_path, 56, crop=False), trace=True)
    # 74 x 56 pixels: 5 x 4 patches and 4 pixels that no patch covers.
    (seen,) = report.pictures
    assert len(seen.all) == 20
    assert sorted({round(x, 6) for x in seen.all[:, 3].tolist()}) == [
        round(14 * i / 74, 6) for i in range(1, 6)
    ]
    assert sorted(set(seen.all[:, 4].tolist())) == [0.25, 0.5, 0.75, 1]
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert illava.predict(config, METHOD, picture_size=(74, 56)).llm_tokens == report.llm_tokens


@pytest.mark.parametrize(
    "method", ["pool", "divprune", "mmtok", "fastv", "tome", "sparsevlm", "dart", "pyramiddrop"]
)
@pytest.mark.parametrize("full", [False, True])
def test_registers_are_no_patches(tmp_path, method, full) -> None:
    """Whatever a method drops of the patches, all registers reach the last layer."""
    model, processor = load(str(save(tmp_path, 56, registers=4, full=full)))
    inputs = build_prompt(processor, [picture(), picture()], "what is this")
    chosen = make_method(method, 0.3)
    assert chosen is not None
    with illava.accelerate(model, chosen) as handle, torch.no_grad():
        model(**inputs)
        report = handle.report
        predicted = illava.predict(handle.modules, chosen, picture_size=56, pictures=2)
    each = 4 + full
    assert report.visual_tokens == 2 * (16 + each)
    left = sum(len(one.kept[-1]) for one in report.pictures)
    assert report.final_tokens == left + 2 * each
    assert left < 2 * 16
    assert predicted.final_tokens == report.final_tokens


def test_features_of_unknown_origin_are_refused() -> None:
    model = tiny_model("llava-dinov2-registers")
    inputs = prompt(model, [([3, 4, 5], pictures(model, 1))])
    pixels = inputs.pop("pixel_values")
    with torch.no_grad():
        features = model.get_image_features(pixels, return_dict=True)
        with (
            illava.accelerate(model, METHOD),
            pytest.raises(UnsupportedError, match="registers"),
        ):
            model(**inputs, mm_encoder_outputs={"image": features})
        with illava.accelerate(model, METHOD) as handle:
            known = model.get_image_features(pixels, return_dict=True)
            model(**inputs, mm_encoder_outputs={"image": known})
            assert handle.report.final_tokens < handle.report.visual_tokens


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_registers_among_tiles_are_refused(family) -> None:
    made = tiny_model(f"{family}-dinov2").config
    made.vision_config = tiny_model("llava-dinov2-registers").config.vision_config
    model = transformers.AutoModelForImageTextToText.from_config(made)
    with pytest.raises(UnsupportedError, match="vision tower of type 'dinov2_with_registers'"):
        illava.accelerate(model)


@pytest.mark.parametrize(
    ("options", "centre"),
    [
        ({"size": {"shortest_edge": 256}}, (420, 420)),
        ({"size": {"height": 224, "width": 224}}, (640, 480)),
        ({"size": {"height": 256, "width": 256}}, (560, 420)),
        ({"do_resize": False}, (224, 224)),
    ],
)
def test_what_is_cropped_after_resizing_to_more(options, centre) -> None:
    processor = transformers.CLIPImageProcessor(crop_size={"height": 224, "width": 224}, **options)
    assert as_seen(SimpleNamespace(image_processor=processor), picture()).size == centre


@pytest.mark.parametrize("kind", [transformers.Dinov2Config, transformers.Dinov2WithRegistersConfig])
@pytest.mark.parametrize(
    ("hidden", "gated", "wide"), [(384, False, 1536), (1536, True, 4096), (1000, True, 2672)]
)
def test_sizes_of_the_mlp_are_those_of_its_weights(kind, hidden, gated, wide) -> None:
    made = kind(hidden_size=hidden, num_hidden_layers=1, num_attention_heads=8, use_swiglu_ffn=gated)
    with torch.device("meta"):
        mlp = transformers.AutoModel.from_config(made).encoder.layer[0].mlp
    shape = tiled_encoder(made, ())
    assert (shape.intermediate, shape.mlp_matrices) == (wide, 3 if gated else 2)
    assert sum(p.numel() for p in mlp.parameters() if p.dim() == 2) == shape.mlp_matrices * hidden * wide


@pytest.mark.parametrize("name", ["visionzip", "tome"])
def test_a_projector_that_the_encoder_calls_too_is_refused(name) -> None:
    model = tiny_model("llava-dinov2", patch_size=PATCH, image_size=4 * PATCH, hidden_size=64)
    model.model.multi_modal_projector = model.model.vision_tower.layernorm
    with pytest.raises(UnsupportedError, match="multi_modal_projector is a module of vision_tower too"):
        illava.accelerate(model, make_method(name, 1 / 3))
    illava.accelerate(model, make_method("fastv", 1 / 3)).remove()
