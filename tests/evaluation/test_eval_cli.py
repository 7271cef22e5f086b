"""``illava eval`` as its user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from illava_lab import tasks
from PIL import Image

from illava.cli.console import spread_values

from ..cli.conftest import assert_error, invoke
from .conftest import Squares, square


@pytest.fixture(autouse=True)
def squares(monkeypatch):
    monkeypatch.setattr(tasks, "names", lambda: ("squares", "others"))
    monkeypatch.setattr(tasks, "load", lambda name, split="test", seed=0: Squares(name))


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for colour in ("red", "blue"):
        square(colour, 1).save(folder / f"{colour}.png")
    rows = [
        {"picture": f"{c}.png", "question": "What colour is the square?", "answer": c}
        for c in ("red", "blue")
    ]
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def summary(folder: Path) -> dict:
    found = json.loads((folder / "summary.json").read_text())
    found.pop("timing")
    return found


def test_whole_command(data, tmp_path):
    out = tmp_path / "deep" / "out"
    words = ["eval", "--model", "zoo/S", "--tasks", "squares", data, "--keep", "1", "1/3", "published"]
    words += ["--limit", 3, "--batch-size", 2, "--max-new-tokens", 3, "--output", out]
    result = invoke(*words, "--time", 1)
    assert result.exit_code == 0, result.output
    assert "plain" in result.stdout
    assert "illava 1/3" in result.stdout
    assert "published" in result.stdout
    found = summary(out)
    assert {name: task["samples"] for name, task in found["tasks"].items()} == {"squares": 3, "mine": 2}
    assert len((out / "answers.jsonl").read_text().splitlines()) == 5 * 5
    timing = json.loads((out / "timing.json").read_text())
    assert set(timing["rows"]) == {"plain", "illava 1", "illava 1/3", "illava published"}
    text = (out / "summary.md").read_text()
    assert "## Speed-up over plain" in text
    assert "## mine" in text
    # Again, from part of the answers: the same figures, the timing kept.
    with (out / "answers.jsonl").open("r+b") as file:
        file.truncate(1234)
    (out / "summary.md").unlink()
    assert invoke(*words, "--time", 0).exit_code == 0
    assert summary(out) == found
    assert (out / "summary.md").read_text() == text
    assert_error(invoke(*words, "--seed", 4), "other settings", "seed 0 there, 4 here")


def test_skip_bad(data, tmp_path):
    path = data / "samples.jsonl"
    path.write_text(path.read_text() + '\n{"picture": "no.png", "question": "What?", "answer": "x"}\nhello\n')
    words = ["eval", "--tasks", data, "--keep", "1/3", "--output", tmp_path / "out", "--time", 0]
    assert_error(invoke(*words), "line 3: no.png: no such file", "line 4: not JSON", "--skip-bad")
    assert not (tmp_path / "out").exists()
    result = invoke(*words, "--skip-bad", "--max-new-tokens", 2)
    assert result.exit_code == 0, result.output
    assert "skipping 2 invalid lines: line 3: no.png: no such file; line 4: not JSON" in result.stderr
    assert summary(tmp_path / "out")["tasks"]["mine"]["samples"] == 2


def test_what_only_the_processor_refuses_is_a_bad_line(data, tmp_path):
    path = data / "samples.jsonl"
    Image.new("RGB", (4000, 8)).save(data / "strip.png")
    path.write_text(path.read_text() + '\n{"picture": "strip.png", "question": "What?", "answer": "x"}\n')
    words = ["eval", "--tasks", data, "--keep", "1/3", "--output", tmp_path / "out", "--time", 0]
    assert_error(invoke(*words), "line 3:", "aspect ratio", "--skip-bad")
    result = invoke(*words, "--skip-bad", "--max-new-tokens", 2, "--limit", 1)
    assert result.exit_code == 0, result.output
    assert "mine: using 1 of 3 questions; raise --limit for more" in result.stderr
    result = invoke(*words, "--skip-bad", "--max-new-tokens", 2)
    assert "skipping 1 invalid lines: line 3:" in result.stderr
    assert summary(tmp_path / "out")["tasks"]["mine"]["samples"] == 2


def test_figures_that_cannot_be_written_are_one_line(data, tmp_path, monkeypatch):
    from illava.evaluation import summary as module

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    words = ["eval", "--tasks", data, "--keep", "1", "--output", tmp_path / "out", "--time", 0]
    assert_error(invoke(*words, "--max-new-tokens", 2), "cannot write there: No space left on device")


def test_plot(tmp_path, monkeypatch):
    """Drawn where matplotlib is; otherwise one line says what to install, and the rest is there."""
    from illava.evaluation.plot import draw
    from illava.io.plots import HINT

    figure = {"value": 90.0, "low": 80.0, "high": None}
    mean = {"retained": figure, "above_blank": {**figure, "value": None}, "final_tokens": 9.0}
    row = {"method": "illava", "options": {}}
    found = {
        "settings": {
            "model": "m",
            "rows": {"plain": {"options": None, "method": "plain"}, "illava 1/3": row},
        },
        "tasks": {"a": {"in_mean": True}},
        "mean": {"plain": mean, "illava 1/3": mean},
        "timing": {"rows": {name: {"seconds": {"prefill": 0.1}} for name in ("plain", "illava 1/3")}},
    }
    assert draw(found, tmp_path / "p.png") is None
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert draw(found, tmp_path / "q.png") == HINT
    assert not (tmp_path / "q.png").exists()
    found["tasks"]["a"]["in_mean"] = False
    monkeypatch.undo()
    assert "no plot" in draw(found, tmp_path / "q.png")


# -- values and errors -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--keep 1 1/3 --seed 2", "--keep 1 --keep 1/3 --seed 2"),
        ("--keep 1 --keep 1/3", "--keep 1 --keep 1/3"),
        ("--tasks a b c --method x --skip-bad", "--tasks a --tasks b --tasks c --method x --skip-bad"),
        ("--limit 3 4", "--limit 3 4"),
        ("--keep=1 1/3 --limit=3", "--keep 1 --keep 1/3 --limit=3"),
        ("--keep", "--keep"),
        ("", ""),
    ],
)
def test_spread(given, meant):
    assert spread_values(given.split(), {"--keep", "--tasks", "--method"}) == meant.split()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--keep", "1", "2"], ["--keep 2", "above 0 and up to 1"]),
        (["--keep", "1/3,x"], ["--keep x"]),
        (["--method", "magic"], ["--method magic", "illava"]),
        (["--split", "train"], ["--split train", "test or val"]),
        (["--tasks", "nothing"], ["--tasks nothing", "give a folder or some of squares, others"]),
        (["--tasks", "squares", "--model", "zoo/XXL"], ["model zoo/XXL"]),
        (["--tasks", "squares", "--device", "abacus"], ["device abacus"]),
        (["--tasks", "squares", "--output", "/dev/null/x"], ["/dev/null/x: cannot write there"]),
    ],
)
def test_errors(words, parts, tmp_path):
    assert_error(invoke("eval", "--output", tmp_path / "out", "--time", 0, *words), *parts)


def test_two_tasks_of_one_name(data, tmp_path):
    other = data.rename(tmp_path / "squares")
    assert_error(
        invoke("eval", "--output", tmp_path / "out", "--tasks", "squares", other),
        "two tasks are called squares",
    )


def test_usage_errors_exit_with_2(tmp_path):
    for words in (["--limit", "0"], ["--output"], ["stray", "--output", tmp_path], []):
        assert invoke("eval", *words).exit_code == 2


def test_interrupted(tmp_path, monkeypatch):
    from illava.evaluation import run

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", stop)
    result = invoke("eval", "--tasks", "squares", "--output", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (130, "")
