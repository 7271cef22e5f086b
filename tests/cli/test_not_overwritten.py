"""No command writes over what it was given, by whatever name or link it is reached."""

from __future__ import annotations

import json
import os
from pathlib import Path

import illava_lab.demo
import pytest
from PIL import Image

from illava.io.files import check_free, protect, protecting, replacing, to_json
from illava.io.pictures import InputError, check_writable, open_picture, save_png

from .conftest import assert_error, invoke

SMALL = ("--max-new-tokens", "2")
NEVER = "this is an input"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def other_name(picture: Path, how: str) -> Path:
    """Another way to the same file."""
    link = picture.with_name("other.png")
    if how == "same":
        return picture
    if how == "dots":
        return picture.parent / ".." / picture.parent.name / picture.name
    if how == "hard link":
        os.link(picture, link)
    else:
        link.symlink_to(picture)
    return link


@pytest.mark.parametrize("how", ["same", "dots", "hard link", "symbolic link"])
def test_overlay_on_the_picture(picture, how, monkeypatch):
    monkeypatch.setattr("illava.ask.load", lambda *_: pytest.fail("the model was loaded"))
    target = other_name(picture, how)
    before = contents(picture.parent)
    result = invoke("ask", "demo/word.png", picture, "What?", "--save-overlay", target)
    assert_error(result, str(target), NEVER)
    assert contents(picture.parent) == before


def test_overlay_on_a_shipped_picture():
    shipped = illava_lab.demo.path("demo/word.png")
    before = shipped.read_bytes()
    assert_error(invoke("ask", "demo/word.png", "What?", "--save-overlay", shipped), NEVER)
    assert shipped.read_bytes() == before


def test_case_where_it_makes_no_difference(picture, monkeypatch):
    # On such a disk PICTURE.PNG is the file picture.png.
    real, shouted = os.stat, picture.with_name("PICTURE.PNG")

    def stat(path, *args, **kwargs):
        same = isinstance(path, (str, Path)) and Path(path) == shouted
        return real(picture if same else path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    with protecting():
        open_picture(picture)
        with pytest.raises(InputError, match=rf"PICTURE\.PNG: {NEVER}, the same as .*picture\.png"):
            check_writable(shouted)


def test_an_older_overlay_is_replaced(folder, picture):
    overlay = picture.with_name("overlay.png")
    overlay.write_bytes(b"old")
    result = invoke("ask", picture, "What?", "--model", folder, "--save-overlay", overlay, *SMALL)
    assert result.exit_code == 0, result.output
    with Image.open(overlay) as drawn:
        assert drawn.format == "PNG"


@pytest.mark.parametrize("ending", ["png", "html"])
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_look_through_a_link(picture, tmp_path, ending, link, monkeypatch):
    monkeypatch.setattr("illava.ask.load", lambda *_: pytest.fail("the model was loaded"))
    out = tmp_path / "out"
    out.mkdir()
    link(picture, out / f"picture.png.steps.{ending}")
    before = picture.read_bytes()
    assert_error(invoke("look", picture, "--output", out), f"picture.png.steps.{ending}", NEVER)
    assert picture.read_bytes() == before


def test_look_into_the_folder_of_frames(tmp_path):
    frames = tmp_path / "clip"
    frames.mkdir()
    for number in range(2):
        Image.new("RGB", (64, 48), (40 * number, 9, 9)).save(frames / f"{number}.png")
    before = contents(tmp_path)
    assert_error(invoke("look", frames, "--output", frames), NEVER)
    assert contents(tmp_path) == before


@pytest.fixture
def data(tmp_path) -> Path:
    place = tmp_path / "mine"
    place.mkdir()
    Image.new("RGB", (64, 64), "red").save(place / "a.png")
    row = {"picture": "a.png", "question": "Which colour?", "answer": "red"}
    (place / "samples.jsonl").write_text(json.dumps(row) + "\n")
    return place


@pytest.mark.parametrize("command", ["eval", "compare"])
def test_results_into_the_folder_of_questions(folder, data, command):
    before = contents(data)
    words = [command, "--model", folder, "--tasks", data, "--keep", "1/3", "--method", "fastv", "--time", 0]
    words += ["--reference", "fastv"] if command == "compare" else []
    assert_error(invoke(*words, "--output", data, *SMALL), NEVER)
    assert contents(data) == before


@pytest.mark.parametrize("name", ["answers.jsonl", "summary.md", "retained.png"])
def test_results_through_links_to_the_questions(folder, data, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(data / ("a.png" if name.endswith("png") else "samples.jsonl"))
    before = contents(data)
    words = ["eval", "--model", folder, "--tasks", data, "--keep", "1/3", "--time", 0]
    result = invoke(*words, "--output", out, *SMALL)
    # Without a task that the plain model answers there is no plot, hence nothing to refuse.
    assert result.exit_code == (0 if name.endswith("png") else 2)
    assert name.endswith("png") or NEVER in result.stderr
    assert contents(data) == before


@pytest.mark.parametrize("command", ["eval", "bench", "compare"])
def test_results_into_the_model(copy, command, data):
    before = contents(copy)
    words = {
        "eval": ["eval", "--model", copy, "--tasks", data, "--keep", "1/3", "--time", 0, *SMALL],
        "compare": ["compare", "--model", copy, "--tasks", data, "--keep", "1/3", "--time", 0, *SMALL],
        "bench": ["bench", copy, "--size", "64", "--batch", "1", "--keep", "1/3", "--rounds", "1"],
    }[command]
    assert_error(invoke(*words, "--output", copy), NEVER)
    assert contents(copy) == before


def test_in_python_nothing_is_noted(picture, tmp_path):
    # A script that means to replace its picture may.
    save_png(open_picture(picture), picture)
    with protecting():
        protect(picture, tmp_path / "missing")
        with pytest.raises(InputError, match=NEVER), replacing(picture):
            pytest.fail("there is no file to write to")
        check_free(tmp_path / "missing")
    check_free(picture)


def test_json_takes_names_of_any_kind(tmp_path):
    value = {"model": os.fsdecode(b"/m\xff"), "é": 1}
    (tmp_path / "x.json").write_text(to_json(value), encoding="utf-8")
    assert json.loads((tmp_path / "x.json").read_text()) == value
    assert to_json({"é": 1}) == '{"é": 1}'
