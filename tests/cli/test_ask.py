"""``illava ask``: answers, tables, JSON, comparison and overlay, in process and as real processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import illava
from illava.ask import ask
from illava.io.pictures import open_picture
from illava.io.prompts import build_prompt
from illava.viz.overlay import draw_overlay

from .conftest import call, invoke

SMALL = ("--max-new-tokens", "3")


def test_answer_is_what_generate_says(loaded):
    model, processor = loaded
    inputs = build_prompt(processor, [open_picture("demo/word.png")], "What does it read?")
    with illava.accelerate(model, illava.Illava(keep=1 / 3)) as handle:
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        report = handle.report.to_dict()
    answer = ask(
        model, processor, ["demo/word.png"], "What does it read?", illava.Illava(keep=1 / 3), max_new_tokens=4
    )
    new = ids[0, inputs["input_ids"].shape[1] :]
    assert torch.equal(answer.timings[0].output, ids)
    assert answer.text == processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert answer.report.to_dict() == report
    assert answer.report.final_tokens == 48
    assert answer.plain_text is None


def test_comparison_asks_both_and_leaves_the_model_plain(loaded):
    model, processor = loaded
    inputs = build_prompt(processor, [open_picture("demo/number.png")], "What number is written?")
    plain = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    answer = ask(
        model,
        processor,
        [open_picture("demo/number.png")],
        "What number is written?",
        max_new_tokens=4,
        compare=True,
        rounds=2,
    )
    assert len(answer.timings) == len(answer.plain_timings) == 2
    assert all(torch.equal(timing.output, plain) for timing in answer.plain_timings)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), plain)
    illava.accelerate(model).remove()


def test_several_pictures_stand_before_the_question(loaded):
    processor = loaded[1]
    inputs = build_prompt(processor, [Image.new("RGB", (64, 64)), Image.new("RGB", (96, 64))], "Which digit?")
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8], [1, 8, 12]]
    assert text.count("<|vision_start|>") == 2
    assert text.rindex("<|vision_end|>") < text.index("Which digit?")


def test_table(folder, picture):
    result = invoke("ask", picture, "What is it?", "--model", folder, "--keep", "1/4", *SMALL)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "Visual tokens: 6 of 24 left" in result.stdout
    for text in ("image encoder", "LLM", "prefill", "decode", "FLOPs", "KV cache"):
        assert text in result.stdout
    assert "\x1b" not in result.stdout
    tables = result.stdout.split("Visual tokens", 1)[1]
    assert max(map(len, tables.splitlines())) <= 80


def test_compare_shows_both(folder, picture):
    result = invoke("ask", picture, "What is it?", "--model", folder, "--compare", "--rounds", "2", *SMALL)
    assert result.exit_code == 0
    assert result.stdout.startswith("plain:  ")
    assert "\nillava: " in result.stdout
    prefill = next(line for line in result.stdout.splitlines() if "prefill" in line)
    assert prefill.count("ms") == 2
    assert "x (" in prefill


@pytest.mark.parametrize(("keep", "left"), [("0.5", 12), ("1/24", 1), ("1", 24), ("25e-2", 6)])
def test_keep(folder, picture, keep, left):
    result = invoke("ask", picture, "What?", "--model", folder, "--keep", keep, "--json", *SMALL)
    report = json.loads(result.stdout)["report"]
    assert (report["visual_tokens"], report["final_tokens"]) == (24, left)


def test_a_method_without_keep_has_its_published_schedule(folder, picture):
    result = invoke("ask", picture, "What?", "--model", folder, "--method", "illava", "--json", *SMALL)
    assert json.loads(result.stdout)["method"]["keep"] is None


def test_json_compare_and_overlay_as_a_process(folder, picture, tmp_path):
    overlay = tmp_path / "overlay.png"
    result = call(
        "ask", picture, "demo/word.png", "What is it?", "--model", folder, "--keep", "1/3", "--json",
        "--compare", "--rounds", "2", "--save-overlay", overlay, *SMALL,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    said = json.loads(result.stdout)
    assert said["pictures"] == [str(picture), "demo/word.png"]
    assert (said["device"], said["dtype"], said["rounds"]) == ("cpu", "float32", 2)
    assert isinstance(said["answer"], str)
    assert isinstance(said["plain"]["answer"], str)
    for side in (said, said["plain"]):
        assert 0 < side["seconds"]["prefill"] < side["seconds"]["total"]
    gain = said["plain"]["ratios"]["total"]
    assert gain["low"] <= gain["median"] <= gain["high"]
    assert said["report"]["visual_tokens"] == 24 + 144
    assert said["report"]["plain_cost"]["total"] > said["report"]["cost"]["total"]
    assert said["report"]["plain_cost"]["kv_bytes"] > said["report"]["cost"]["kv_bytes"]
    with Image.open(overlay) as drawn:
        assert drawn.format == "PNG"
        assert drawn.width > 4 * 384


def test_overlay_of_a_real_run(loaded):
    model, processor = loaded
    own = (250, 200, 60)
    # Noise in the blue channel alone: patches differ, and dimmed ones are still told apart.
    pixels = np.full((192, 192, 3), own, np.uint8)
    pixels[..., 2] = np.random.default_rng(0).integers(0, 120, (192, 192))
    picture = Image.fromarray(pixels)
    answer = ask(model, processor, [picture], "What?", illava.Illava(keep=1 / 4), max_new_tokens=1)
    sheet = draw_overlay([picture], answer.report)
    shown = answer.report.pictures[0]
    for panel, kept in enumerate((shown.kept[0], shown.kept[-1])):
        kept = {tuple(box) for box in kept[:, 1:].tolist()}
        for x0, y0, x1, y1 in shown.all[:, 1:].tolist():
            place = (8 + panel * 392 + int((x0 + x1) * 192), 8 + int((y0 + y1) * 192))
            red, _, blue = sheet.getpixel(place)
            assert (red - blue > 50) == ((x0, y0, x1, y1) in kept)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (500, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_odd_sizes(folder, tmp_path, size):
    Image.new("RGB", size, "green").save(tmp_path / "odd.png")
    result = invoke("ask", tmp_path / "odd.png", "What?", "--model", folder, *SMALL)
    assert result.exit_code == 0


def test_answers_are_not_read_as_markup(folder, picture, monkeypatch):
    monkeypatch.setattr("illava.ask._decode", lambda *_: "[red]it[/red] [/]", raising=True)
    result = invoke("ask", picture, "What?", "--model", folder, *SMALL)
    assert result.stdout.startswith("[red]it[/red] [/]\n")


def test_checkpoint_dtype_can_be_asked_for(folder, picture):
    result = invoke("ask", picture, "What?", "--model", folder, "--dtype", "bfloat16", "--json", *SMALL)
    assert json.loads(result.stdout)["dtype"] == "bfloat16"


def test_shipped_model_is_the_default():
    result = invoke("ask", "demo/word.png", "What does it read?", "--json", *SMALL)
    assert json.loads(result.stdout)["model"] == "zoo/L"
