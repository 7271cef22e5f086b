"""What is given as text: lone surrogates, empty paths, URLs; each refused by name, in one line."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from illava.cli.app import app
from illava.cli.console import Command
from illava.io.pictures import InputError
from illava.io.prompts import build_prompt

from .conftest import assert_error, call, invoke

HALF = "What is \ud83d?"
BYTE = os.fsdecode(b"What\xff?")
CASES = [
    (("ask", "demo/word.png", HALF), "QUESTION"),
    (("ask", BYTE, "What?"), "PICTURES"),
    (("ask", "demo/word.png", "What?", "--model", BYTE), "--model"),
    (("ask", "demo/word.png", "What?", f"--save-overlay={BYTE}.png"), "--save-overlay"),
    (("look", "demo/word.png", BYTE), "QUESTION"),
    (("look", BYTE), "SHOWN"),
    (("look", "demo/word.png", "--output", HALF), "--output"),
    (("eval", "--output", "out", "--tasks", "reading", BYTE), "--tasks"),
    (("eval", "--output", BYTE), "--output"),
    (("compare", "--output", "out", "--model", HALF), "--model"),
    (("compare", "--output", "out", "--method", HALF), "--method"),
    (("plan", HALF), "MODEL"),
    (("plan", "zoo/S", "--keep", "1/3", "--save", HALF), "--save"),
    (("bench", HALF), "MODEL"),
    (("info", HALF), "MODEL"),
    (("demo", "--model", HALF), "--model"),
    (("serve", HALF), "MODEL"),
    (("serve", "zoo/S", "--allow-host", HALF), "--allow-host"),
]


@pytest.mark.parametrize(
    ("words", "name"), CASES, ids=lambda case: case if isinstance(case, str) else case[0]
)
def test_lone_surrogates_are_refused_by_name(words, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert_error(invoke(*words), f"illava: {name}: character ", "not UTF-8")
    assert not list(tmp_path.iterdir())


def test_a_byte_that_is_not_utf_8_as_a_process():
    assert_error(call("ask", "demo/word.png", BYTE), "QUESTION: character 5")


def test_every_command_checks_what_it_is_given():
    assert all(issubclass(info.cls, Command) for info in app.registered_commands)
    assert len(app.registered_commands) >= 8


def test_whole_emoji_are_welcome(folder, picture):
    result = invoke("ask", picture, "What is 🐈‍⬛ É?", "--model", folder, "--max-new-tokens", 2)
    assert (result.exit_code, result.stderr) == (0, "")


def test_in_python_too(loaded):
    with pytest.raises(InputError, match="question: character 9 is half an emoji"):
        build_prompt(loaded[1], [Image.new("RGB", (64, 64))], HALF)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("eval", "--output", ""), "--output is empty"),
        (("eval", "--output", "o", "--tasks", ""), "--tasks is empty"),
        (("eval", "--output", "o", "--keep", ","), "--keep is empty"),
        (("compare", "--output", "o", "--method", " "), "--method is empty"),
        (("plan", "zoo/S", "--keep", "1/3", "--calibrate", ""), "--calibrate is empty"),
        (("plan", "zoo/S", "--keep", "1/3", "--save", ""), "--save is empty"),
        (("look", ""), "the path is empty; give the path of a picture, a video or a folder of frames"),
        (("ask", "", "What?"), "PICTURES is empty; give a value"),
    ],
)
def test_nothing_is_not_the_current_folder(words, name, monkeypatch, tmp_path):
    # Where the current folder holds pictures, "" once showed them.
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert_error(invoke(*words), name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


URL = "https://example.org//a/cat.png?x=1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ask", URL, "What?"), "URLs are not read; download it"),
        (("look", URL), "URLs are not read; download it"),
        (("look", "data:image/png;base64,AAAA"), "data:image/png;base64,AAAA: URLs are not read"),
        (("look", "demo/word.png", "--output", URL), f"--output {URL}: this is a URL"),
        (("ask", "demo/word.png", "What?", "--save-overlay", URL), f"--save-overlay {URL}: this is a URL"),
        (("ask", "demo/word.png", "What?", "--model", URL), "URLs are not read; give a folder, or the id"),
        (("info", URL), "URLs are not read; give a folder, or the id"),
        (("eval", "--output", "o", "--tasks", URL), f"--tasks {URL}: no such task"),
    ],
)
def test_urls_are_named_whole(words, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert_error(invoke(*words), said, words[1] if words[1].startswith("data") else URL)
    assert not list(tmp_path.iterdir())
