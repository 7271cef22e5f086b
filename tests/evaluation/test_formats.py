"""Samples files of other tools: other names, LLaVA's conversations, OpenAI's messages; what is refused."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from illava.evaluation.data import FolderTask
from illava.evaluation.formats import normalized
from illava.io.pictures import InputError

from ..cli.conftest import assert_error, invoke
from .test_data import GOOD, write

CAT = {"question": "What?", "answer": "x"}


def url(colour: str = "green", kind: str = "PNG") -> str:
    out = io.BytesIO()
    Image.new("RGB", (10, 8), colour).save(out, format=kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def talk(question: str, answer: str = "x", **more: object) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "7", "conversations": turns, **more}


def chat(content: object, answer: object = "x", **more: object) -> dict:
    return {
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
        **more,
    }


def picture(path: str) -> dict:
    return {"type": "image_url", "image_url": {"url": path}}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


ONE, TWO, NONE = ("a.png",), ("a.png", "b.png"), ()
READ = {
    "image": ({**CAT, "image": "a.png"}, ONE),
    "images": ({**CAT, "images": ["a.png", "b.png"]}, TWO),
    "LLaVA": (talk("<image>\nWhat?", image="a.png"), ONE),
    "LLaVA, mark behind": (talk("What?\n<image>", image="a.png"), ONE),
    "LLaVA, no mark": (talk("What?", image="a.png"), ONE),
    "LLaVA, two": (talk("<image>\n<image>\nWhat?", image=["a.png", "b.png"]), TWO),
    "LLaVA, video": (talk("<video>\nWhat?", video="clip"), NONE),
    "LLaVA, other roles": (
        {
            "image": "a.png",
            "conversations": [{"from": "user", "value": "What?"}, {"from": "assistant", "value": "x"}],
        },
        ONE,
    ),
    "OpenAI": (chat([text("What?"), picture("a.png")]), ONE),
    "OpenAI, two": (chat([picture("a.png"), picture("b.png"), text("What?")]), TWO),
    "OpenAI, url as text": (chat([{"type": "image_url", "image_url": "a.png"}, text("What?")]), ONE),
    "OpenAI, answer in parts": (chat([picture("a.png"), text("What?")], [text("x")]), ONE),
    "parts of type image": (chat([{"type": "image", "image": "a.png"}, text("What?")]), ONE),
    "places for pictures": (
        chat([{"type": "image"}, {"type": "image"}, text("What?")], images=["a.png", "b.png"]),
        TWO,
    ),
    "marks": (chat("<image>What?", images=["a.png"]), ONE),
}


@pytest.mark.parametrize("name", READ)
def test_read(folder, name):
    row, pictures = READ[name]
    write(folder, {**row, "kind": "k"})
    task = FolderTask(folder, 9)
    entry, sample = task.entries[0], task[0]
    assert (entry.pictures, entry.video) == (pictures, "" if pictures else "clip")
    assert (sample.question, sample.answers, sample.kind) == ("What?", ("x",), "k")
    sizes = {"a.png": (40, 30), "b.png": (20, 20)}
    assert [one.size for one in sample.pictures] == [sizes[path] for path in pictures]


REFUSED = {
    "two names": ({**CAT, "picture": "a.png", "image": "b.png"}, "give one of picture and image"),
    "two turns": (
        {"image": "a.png", "conversations": talk("Q")["conversations"] * 2},
        "conversations has 2 questions, but a line has one question and one answer; write one line per "
        "question",
    ),
    "no answer": (
        {"image": "a.png", "conversations": talk("Q")["conversations"][:1]},
        "a user's question and an assistant's answer, not human",
    ),
    "a system's turn": (
        {
            "image": "a.png",
            "messages": [{"role": "system", "content": "Be kind."}, *chat("Q")["messages"]],
        },
        "messages must be a user's question and an assistant's answer, not system, user, assistant",
    ),
    "no turns": ({"image": "a.png", "conversations": []}, "not nothing"),
    "turns of text": ({"image": "a.png", "messages": "Q"}, "messages must be a list of turns with role and"),
    "inside": (talk("Is <image> like this?", image="a.png"), "an image is inside the question"),
    "around": (talk("<image> is <image>", image=["a.png", "b.png"]), "an image is inside the question"),
    "parts inside": (chat([text("Is"), picture("a.png"), text("red?")]), "an image is inside the question"),
    "marks too many": (
        talk("<image><image>Q", image="a.png"),
        "has 2 marks of images or videos, but",
    ),
    "mark of nothing": (talk("<image>Q"), "has 1 marks of images or videos, but the line has 0"),
    "no picture": (talk("Q"), "give one of picture, pictures and video"),
    "no picture in parts": (chat([text("Q")]), "give one of picture, pictures and video"),
    "sound": (chat([{"type": "input_audio"}, text("Q")]), "of type text or image_url, not input_audio"),
    "text in parts": (chat(["Q"]), "of type text or image_url, not None"),
    "address": (
        chat([picture("https://a.org//b.png"), text("Q")]),
        "https://a.org//b.png: URLs are",
    ),
    "file address": (chat([picture("file:///a.png"), text("Q")]), "file:///a.png: URLs are not supported"),
    "picture's address": (
        {**CAT, "picture": "http://a.org//b.png"},
        "http://a.org//b.png: URLs are",
    ),
    "outside": (chat([picture("../a.png"), text("Q")]), "must be relative to the folder"),
    "missing": (chat([picture("no.png"), text("Q")]), "no.png: no such file"),
    "both": (chat([picture("a.png"), text("Q")], images=["b.png"]), "holds images; leave out"),
    "not base64": (
        chat([picture("data:image/png;base64,!!!"), text("Q")]),
        "picture 1 of the line: its data",
    ),
    "percent": (chat([picture("data:image/png,%89PNG"), text("Q")]), "a data URL must be base64"),
    "no picture in data": (
        chat([picture("data:image/png;base64,aGVsbG8="), text("Q")]),
        "picture 1 of the line: this is not a picture",
    ),
    "no number": (
        chat([picture("a.png"), text("Q")], None),
        "an answer must be a string or a number, not null",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(folder, name):
    row, said = REFUSED[name]
    write(folder, GOOD, row)
    with pytest.raises(InputError) as error:
        FolderTask(folder, 9)
    assert "samples.jsonl: line 2: " in str(error.value)
    assert said in str(error.value)
    assert len(str(error.value)) < 400 + len(str(folder))


def test_pictures_in_the_line(folder):
    both = chat([picture(url("green")), picture(url("blue", "BMP")), text("Which?")])
    write(folder, GOOD, both, {**CAT, "image": url("green")}, GOOD)
    task = FolderTask(folder, 9)
    assert [one.getpixel((0, 0)) for one in task[1].pictures] == [(0, 128, 0), (0, 0, 255)]
    assert [one.getpixel((0, 0)) for one in task[2].pictures] == [(0, 128, 0)]
    # Of a picture's bytes nothing but a hash is held; equal ones are one cluster.
    green, blue = task[1].cluster.split("|")
    assert task[2].cluster == green != blue
    assert len(green) < 30
    assert task[3].cluster == "a.png"


def test_bad_pictures_in_lines_are_skipped_by_number(folder):
    broken = url()[:-40] + "=" * 4
    write(folder, {**CAT, "picture": broken}, GOOD, {**CAT, "picture": url()})
    task = FolderTask(folder, 9, skip_bad=True)
    assert [reason.split(": ")[:2] for reason in task.bad] == [["line 1", "picture 1 of the line"]]
    assert [entry.line for entry in task.entries] == [2, 3]
    assert task[1].pictures[0].size == (10, 8)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_answers_that_are_no_number(folder, number):
    good = json.dumps(GOOD)
    for line in (good.replace('"x"', number), good.replace('"answer": "x"', f'"answers": ["x", {number}]')):
        write(folder, good, line)
        with pytest.raises(InputError, match="line 2: an answer must be a string or a finite number, not"):
            FolderTask(folder, 9)
    # As words they are answers like others: Nan is a name.
    write(folder, {**GOOD, "answer": "Nan"}, {**GOOD, "answer": 1e300})
    assert FolderTask(folder, 9)[0].answers == ("Nan",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("question", "What \\ud83d?"),
        ("answer", "\\ude00"),
        ("answers", ["x", "\\udcff"]),
        ("kind", "\\ud83dk"),
        ("picture", "\\udcff.png"),
    ],
)
def test_half_an_emoji_is_a_bad_line(folder, tmp_path, field, value):
    row = {key: one for key, one in GOOD.items() if field != "answers" or key != "answer"}
    line = json.dumps({**row, field: value}).replace("\\\\u", "\\u")
    write(folder, json.dumps(GOOD), line)
    name = "answer" if field == "answers" else field
    words = ["eval", "--tasks", folder, "--keep", "1/3", "--output", tmp_path / "out", "--time", 0]
    assert_error(
        invoke(*words, "--model", "zoo/S"), f"line 2: {name}: character", "half an emoji", "--skip-bad"
    )
    assert not (tmp_path / "out").exists()
    task = FolderTask(folder, 9, skip_bad=True)
    assert len(task) == 1
    # A whole one, written as two halves, is fine.
    write(folder, json.dumps({**GOOD, "question": "\U0001f600?", "answer": "\U0001f600"}))
    assert FolderTask(folder, 9)[0].question == "\U0001f600?"


def test_a_thousand_bad_lines_are_three_and_a_count(folder, tmp_path):
    write(folder, *[{"picture": "a.png", "query": "What?", "answer": "x"}] * 1101)
    with pytest.raises(InputError) as error:
        FolderTask(folder, 9)
    lines = "; ".join(f"line {n}: no question; give a string" for n in (1, 2, 3))
    assert str(error.value) == (
        f"{folder / 'samples.jsonl'}: {lines}; and 1,098 more; correct these lines or give --skip-bad"
    )
    with pytest.raises(
        InputError, match=r"no valid line; give at least one; line 1: .*line 3: .*; and 1,098 more$"
    ):
        FolderTask(folder, 9, skip_bad=True)


def test_skipped_lines_are_told_likewise(folder, tmp_path):
    write(folder, GOOD, *["{"] * 9)
    words = ["eval", "--tasks", folder, "--keep", "1/3", "--output", tmp_path / "out", "--time", 0]
    result = invoke(*words, "--skip-bad", "--model", "zoo/S", "--max-new-tokens", 1)
    assert result.exit_code == 0, result.output
    assert "mine: skipping 9 invalid lines: line 2: not JSON" in result.stderr
    assert "; and 6 more\n" in result.stderr


def test_prompts_of_a_calibration(tmp_path):
    from illava.evaluation.calibrate import samples

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "prompts.txt").write_bytes("What?\n\nQuè?\n".encode() + b"\xff?\n")
    with pytest.raises(InputError, match=r"prompts\.txt: line 4 is not UTF-8"):
        samples(tmp_path)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"picture": "a.png", "question": "<image>\nWhat?", "answer": "x"}, {"question": "What?"}),
        (
            chat([picture("a.png"), {"type": "text", "text": "<image>q"}], "a"),
            {"pictures": ["a.png"], "question": "q", "answer": "a"},
        ),
        (
            talk("q", "a", image=None),
            {"question": "q", "answer": "a"},
        ),
    ],
)
def test_marks_and_nulls(row, wanted):
    found = normalized(row)
    assert {key: found[key] for key in wanted} == wanted
    assert "<image>" not in str(found)
    assert None not in found.get("pictures", [])


@pytest.mark.parametrize("question", ["<image><image>What?", "What is <image> this?"])
def test_marks_that_fit_no_picture(question):
    with pytest.raises(ValueError, match="question"):
        normalized({"picture": "a.png", "question": question, "answer": "x"})
