"""``illava plan``: targets on the command line, calibration, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import illava
from illava.cli.app import app
from illava.evaluation import calibrate
from illava.evaluation.calibrate import samples
from illava.io.pictures import InputError

SHAPE = ["--shape", "llava-onevision-0.5b", "--size", "384"]


def invoke(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def refused(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_target_is_planned_and_printed():
    result = invoke(*SHAPE, "--speedup", 2)
    assert result.exit_code == 0, result.output
    assert "schedules that reach the target" in result.output
    assert "first token, GFLOPs" in result.output
    assert "encoder" in result.output


def test_json_holds_a_method_that_can_be_saved_and_used(tmp_path):
    result = invoke(*SHAPE, "--keep", "1/9", "--speedup", 3, "--json", "--save", tmp_path)
    found = json.loads(result.stdout)
    assert found["met"]
    assert found["speedup"] >= 3
    method = illava.Method.from_pretrained(tmp_path)
    assert method.to_dict() == found["method"]
    assert found["prediction"]["final_tokens"] == pytest.approx(
        found["prediction"]["visual_tokens"] / 9, abs=1
    )


def test_an_impossible_target_is_no_error():
    found = json.loads(invoke(*SHAPE, "--speedup", 100, "--json").stdout)
    assert not found["met"]
    assert "not possible" in found["reason"]


def test_milliseconds_are_measured_on_this_machine():
    result = invoke("zoo/S", "--ttft-ms", 1e6, "--size", 96, "--threads", torch.get_num_threads(), "--json")
    found = json.loads(result.stdout)
    assert found["met"]
    assert 0 < found["seconds"]["merged"]["ttft"] < 1e3


def test_a_small_picture_on_an_accelerator_is_not_merged():
    small = ["--shape", "qwen2-vl-2b", "--size", 224, "--speedup", 1.5, "--device-rates", "h100"]
    result = invoke(*small)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].startswith("Merging does not pay here; keep all visual tokens: ")
    assert "launches, ms" in result.stdout
    found = json.loads(invoke(*small, "--json").stdout)
    assert found["pays"] is False
    assert not found["met"]
    assert found["method"]["keep"] == 1
    assert found["refused"]["speedup"] < 1
    assert (found["device_rates"]["name"], found["device_rates"]["measured"]) == ("h100", False)
    large = json.loads(invoke(*small, "--size", 1344, "--dtype", "float16", "--json").stdout)
    assert large["pays"]
    assert large["met"]
    assert large["seconds"]["merged"]["merging"] > 0
    assert large["device_rates"]["dtype"] == "float16"


def test_the_cost_of_merging_is_printed():
    words = ["--shape", "qwen2-vl-2b", "--size", 672, "--speedup", 2, "--device-rates", "l4"]
    result = invoke(*words)
    assert "merging itself, ms" in result.stdout
    assert "which no card has confirmed" in " ".join(result.stdout.split())


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "navy")):
        picture = Image.new("RGB", (192, 192), "white")
        picture.paste(colour, (40, 40, 120, 150))
        picture.save(folder / name)
    (folder / "prompts.txt").write_text("What colour is the square?\n\n")
    return folder


def test_calibration_takes_the_nearest_and_goes_on_where_it_was_stopped(pictures, tmp_path, monkeypatch):
    arguments = ["zoo/S", "--speedup", 1.4, "--size", 192, "--text-tokens", 20]
    arguments += ["--calibrate", pictures, "--output", tmp_path / "out", "--json"]
    found = json.loads(invoke(*arguments).stdout)
    tried = found["calibration"]
    assert len(tried) > 1
    best = min(tried, key=lambda one: one["divergence"])
    assert found["method"] == best["method"]
    assert "2 prompts" in found["reason"]
    # Everything is known by now: the model is asked nothing.
    monkeypatch.setattr(calibrate, "_first_tokens", lambda *_: pytest.fail("asked again"))
    again = json.loads(invoke(*arguments).stdout)
    assert again["calibration"] == tried
    # A broken file of results is not overwritten.
    results = tmp_path / "out" / "calibration.json"
    results.write_text("{")
    assert "calibration.json" in refused(*arguments)
    assert results.read_text() == "{"


def test_divergence_is_that_of_the_first_tokens_written_out(pictures):
    from illava.ask import load
    from illava.io.prompts import build_prompt

    model, processor = load("zoo/S")
    method = illava.Illava(keep=1 / 9)
    picture, question = Image.open(pictures / "a.png"), "What colour is the square?"
    (value,) = calibrate.calibrate(model, processor, [method], [(picture, question)])
    inputs = build_prompt(processor, [picture], question)
    start = inputs["input_ids"].shape[1]
    with torch.no_grad():
        said = model.generate(**inputs, max_new_tokens=calibrate.TOKENS, do_sample=False)
        whole = {"input_ids": said, "attention_mask": torch.ones_like(said)}
        whole |= {name: inputs[name] for name in inputs if name not in ("input_ids", "attention_mask")}
        if "mm_token_type_ids" in whole:
            kinds = whole["mm_token_type_ids"]
            whole["mm_token_type_ids"] = torch.nn.functional.pad(kinds, (0, said.shape[1] - kinds.shape[1]))
        plain = model(**whole).logits[0, start - 1 : -1].log_softmax(-1)
        with illava.accelerate(model, method):
            # One token more at a time, each prompt anew.
            out = model.generate(**inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True)
    first = out.logits[0][0].log_softmax(-1)
    kl = (plain[0].exp() * (plain[0] - first)).sum()
    assert value > 0
    # The mean over as many tokens holds at least the first one's part.
    assert value >= float(kl) / (said.shape[1] - start) - 1e-6


def test_what_cannot_be_calibrated_on(tmp_path):
    with pytest.raises(InputError, match="a folder with images"):
        samples(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        samples(tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--speedup", "2"], "--shape NAME"),
        (["zoo/S", *SHAPE, "--speedup", "2"], "--shape NAME"),
        (SHAPE, "give at least one target"),
        ([*SHAPE, "--speedup", "0.5"], "at least 1"),
        ([*SHAPE, "--keep", "2"], "--keep"),
        ([*SHAPE, "--keep", "1/3", "--device-rates", "none"], "rtx4090"),
        ([*SHAPE, "--keep", "1/3", "--device-rates", "l4", "--measure"], "--measure"),
        ([*SHAPE, "--kv-bytes", "many"], "--kv-bytes"),
        ([*SHAPE, "--speedup", "2", "--size", "0"], "--size"),
        ([*SHAPE, "--speedup", "2", "--calibrate", "x"], "--calibrate"),
        (["zoo/S", "--speedup", "2", "--calibrate", "/none"], "--calibrate"),
        (["--shape", "none", "--speedup", "2"], "none"),
        (["zoo/none", "--speedup", "2"], "zoo/none"),
    ],
)
def test_wrong_input_is_one_line(arguments, said):
    assert said in refused(*arguments)


def test_a_models_own_processor_says_how_large_pictures_are():
    found = json.loads(invoke("zoo/S", "--keep", "1/3", "--json").stdout)
    # 384 x 384 is the most that it takes: 24 x 24 units of 16 pixels.
    assert found["picture_size"] == [384, 384]
    assert found["prediction"]["visual_tokens"] == 576


def test_bytes_are_those_of_the_dtype_that_a_model_runs_in():
    words = ("zoo/S", "--keep", "1", "--size", "192", "--json")
    found = [json.loads(invoke(*words, "--dtype", dtype).stdout) for dtype in ("auto", "float32", "bfloat16")]
    auto, full, half = (one["prediction"]["cost"]["kv_bytes"] for one in found)
    assert auto == full == 2 * half


def test_nothing_needs_to_merge():
    result = invoke("zoo/S", "--speedup", "1", "--size", "192")
    assert "No merging needed" in result.stdout
    assert "calibrate" not in invoke("zoo/S", "--speedup", "100", "--size", "192").stdout


def test_there_is_nothing_to_calibrate_where_merging_does_not_pay(tmp_path):
    (tmp_path / "prompts.txt").write_text("What is it?\n")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    result = invoke("zoo/S", "--speedup", 1.5, "--device-rates", "h100", "--calibrate", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["pays"] is False
    assert "the target cannot be reached" in found["reason"]
