"""``illava look``: a sheet and a page for a picture, an animation for a video, a line for what is wrong."""

from __future__ import annotations

import pytest
from PIL import Image

from .conftest import invoke

SMALL = ("--max-new-tokens", "3")


def test_a_picture(folder, picture, tmp_path):
    out = tmp_path / "a" / "b"
    result = invoke("look", picture, "What is it?", "--model", folder, "--output", out, *SMALL)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["picture.png.steps.html", "picture.png.steps.png"]
    page = (out / "picture.png.steps.html").read_text(encoding="utf-8")
    assert "What is it?" in page
    assert "whole answer" in page
    with Image.open(out / "picture.png.steps.png") as sheet:
        # The picture, an encoder step and an LLM step.
        assert sheet.width > 3 * 384
    for word in ("plain:", "merged:", "encoder block", "picture.png.steps.html"):
        assert word in result.stdout


def test_a_video(folder, tmp_path):
    frames = tmp_path / "clip"
    frames.mkdir()
    for number in range(6):
        Image.new("RGB", (64, 48), (40 * number, 9, 9)).save(frames / f"{number}.png")
    out = tmp_path / "out"
    result = invoke("look", frames, "--model", folder, "--keep", "1/3", "--output", out, *SMALL)
    assert result.exit_code == 0, result.output
    with Image.open(out / "clip.steps.webp") as sheets:
        # The tiny Qwen2-VL takes two frames at once.
        assert (sheets.is_animated, sheets.n_frames) == (True, 3)
    assert "What is shown?" in (out / "clip.steps.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["downsample", "divprune", "fastv"])
def test_other_methods(folder, picture, tmp_path, method):
    result = invoke(
        "look", picture, "--model", folder, "--method", method, "--output", tmp_path / "o", *SMALL
    )
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing.png",), "no such file"),
        (("demo/word.png", " "), "give a question"),
        (("demo/word.png", "--keep", "2"), "--keep 2"),
        (("demo/word.png", "--method", "magic"), "unknown method"),
        (("demo/word.png", "--output", "/proc/no"), "cannot write there"),
    ],
)
def test_what_is_wrong_is_one_line(folder, words, said):
    result = invoke("look", *words, "--model", folder)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_was_given_is_not_overwritten(folder, picture):
    before = picture.read_bytes()
    result = invoke("look", picture, "--model", folder, "--output", picture.parent, *SMALL)
    assert result.exit_code == 0, result.output
    assert picture.read_bytes() == before


def test_a_wide_video_of_many_steps(folder, tmp_path):
    frames = tmp_path / "wide"
    frames.mkdir()
    for number in range(2):
        Image.new("RGB", (900, 100), (40 * number, 9, 9)).save(frames / f"{number}.png")
    result = invoke("look", frames, "--model", folder, "--method", "tome", "--output", tmp_path / "o", *SMALL)
    assert result.exit_code == 0, result.output
