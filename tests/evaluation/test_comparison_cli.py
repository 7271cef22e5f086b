"""``illava compare`` as its user meets it."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from illava_lab import tasks

from illava.evaluation import compared_methods, comparison_page, summary
from illava.evaluation.store import ANSWERS, Store
from illava.methods import Illava, base

from ..cli.conftest import assert_error, invoke
from .conftest import Squares

SRC = Path(__file__).parents[2] / "src"
FILES = ("comparison.md", "comparison.csv", "comparison.json")
PLOTS = ("comparison/zoo-S-flops.png", "comparison/zoo-S-ttft.png")


@pytest.fixture(autouse=True)
def squares(monkeypatch):
    """Tasks that take no time to draw and that any model is good enough at; illava alone as a method."""
    monkeypatch.setattr(tasks, "names", lambda: ("squares", "others"))
    monkeypatch.setattr(tasks, "load", lambda name, split="test", seed=0: Squares(name))
    monkeypatch.setattr(summary, "LEAST_PLAIN", 0.0)
    monkeypatch.setattr(base, "_METHODS", {"illava": Illava})
    monkeypatch.setattr(compared_methods, "presets", dict)


@pytest.fixture
def dropping(tmp_path) -> Path:
    return Illava(reduce="drop", select="random").save_pretrained(tmp_path / "dropping").parent


def words(out: Path, *more: object) -> list[object]:
    return [
        "compare",
        *("--output", out, "--model", "zoo/S", "--tasks", "squares", "--keep", "1/3", "1/9"),
        *("--limit", 5, "--batch-size", 3, "--max-new-tokens", 2),
        *more,
    ]


def written(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


def test_whole_command(tmp_path, dropping):
    out = tmp_path / "deep" / "out"
    result = invoke(*words(out, "--method", "all", dropping, "--time", 1))
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "dropping 1/9" in result.stdout
    said = f"Verdict: {out / 'comparison.md'}; all figures: {out / 'comparison.csv'}"
    assert said in result.stdout
    figures = json.loads((out / "comparison.json").read_text())
    rows = {row["label"]: row for row in figures["models"]["zoo/S"]["rows"]}
    labels = [f"{name} {keep}" for name in ("illava", "dropping") for keep in ("1/3", "1/9")]
    assert list(rows) == ["plain", "blank", "text only", *labels]
    assert len((out / "zoo-S" / ANSWERS).read_text().splitlines()) == 7 * 5
    assert figures["comparisons"]["made"] == 2
    assert rows["dropping 1/9"]["difference"]["value"] is not None
    assert rows["dropping 1/9"]["options"]["reduce"] == "drop"
    for label in labels:
        assert rows[label]["ttft"]["value"] > 0
        assert 0 < rows[label]["flops"] < 1
    assert rows["text only"]["visual_tokens"] == 0
    assert rows["text only"]["flops"] < rows["illava 1/9"]["flops"]
    table = list(csv.DictReader((out / "comparison.csv").open(newline="")))
    assert [line["row"] for line in table] == list(rows)
    assert all((out / name).exists() for name in PLOTS)
    # Again, from part of the answers and the times: the same bytes.
    before = written(out)
    with (out / "zoo-S" / ANSWERS).open("r+b") as file:
        file.truncate(1234)
    (out / "comparison.md").unlink()
    again = invoke(*words(out, "--method", "all", dropping, "--time", 0))
    assert again.exit_code == 0, again.output
    assert written(out) == before
    # Another reference: the answers serve again.
    assert (
        invoke(*words(out, "--method", "all", dropping, "--time", 0, "--reference", "dropping")).exit_code
        == 0
    )
    turned = json.loads((out / "comparison.json").read_text())
    turned = {row["label"]: row["difference"]["value"] for row in turned["models"]["zoo/S"]["rows"]}
    assert turned["illava 1/9"] == -rows["dropping 1/9"]["difference"]["value"]
    assert_error(invoke(*words(out, "--method", "illava", "--time", 0)), "other settings", "dropping")
    assert_error(invoke(*words(out, "--method", "all", dropping, "--seed", 4)), "seed 0 there, 4 here")


def test_killed_in_the_middle(tmp_path, dropping, monkeypatch):
    """Stopped while answering, then while timing: in the end the bytes of a run that was not."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert invoke(*words(whole, "--method", dropping, "--time", 0)).exit_code == 0
    appended, real = [], Store.append

    def append(store, lines):
        appended.append(1)
        if len(appended) == 4:
            raise KeyboardInterrupt
        real(store, lines)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", append)
        result = invoke(*words(cut, "--method", dropping, "--time", 0))
    assert (result.exit_code, result.stderr) == (130, "")
    assert not (cut / "comparison.md").exists()
    assert 0 < len((cut / "zoo-S" / ANSWERS).read_bytes()) < len((whole / "zoo-S" / ANSWERS).read_bytes())
    assert invoke(*words(cut, "--method", dropping, "--time", 0)).exit_code == 0
    assert written(cut) == written(whole)
    assert (cut / "zoo-S" / ANSWERS).read_bytes() == (whole / "zoo-S" / ANSWERS).read_bytes()


@pytest.mark.slow
def test_killed_for_good(tmp_path, dropping):
    """SIGKILL: nothing can be put in order, and still nothing is lost or different."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = list(map(str, words(out, "--method", dropping, "--time", 0)))
    code = f"""
import sys
sys.path[:0] = [{str(SRC)!r}, {str(SRC.parent / "lab")!r}, {str(SRC.parent)!r}]
sys.argv = ["illava", *{command!r}]
import torch; torch.set_num_threads(1)
from illava_lab import tasks
from tests.evaluation.conftest import Squares
tasks.names = lambda: ("squares", "others")
tasks.load = lambda name, split="test", seed=0: Squares(name)
from illava.cli import main; main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    begun = out / "zoo-S" / ANSWERS
    while process.poll() is None and not (begun.exists() and begun.stat().st_size):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    for folder in (out, whole):
        assert invoke(*words(folder, "--method", dropping, "--time", 0)).exit_code == 0
    assert written(out) == written(whole)


def test_what_the_model_does_not_allow_is_listed(tmp_path):
    """The run goes on without it."""
    deep = Illava(encoder_layers=(), llm_layers=(40,), keep=0.5).save_pretrained(tmp_path / "deep").parent
    out = tmp_path / "out"
    result = invoke(*words(out, "--method", "illava", deep, "--time", 0))
    assert result.exit_code == 0, result.output
    reason = "llm_layers: this model has layers 0 to 5, got 40"
    assert f"zoo/S: skipping deep 1/3: {reason}" in result.stderr
    assert f"| deep 1/3, deep 1/9 | {reason} |" in (out / "comparison.md").read_text()
    table = {line["row"]: line for line in csv.DictReader((out / "comparison.csv").open(newline=""))}
    assert (table["deep 1/3"]["refused"], table["deep 1/3"]["accuracy"]) == (reason, "")
    assert "not run" in result.stdout
    assert "deep 1/3" not in json.loads((out / "zoo-S" / "settings.json").read_text())["rows"]


def test_the_reference_takes_part(tmp_path, dropping):
    out = tmp_path / "out"
    more = ("--method", dropping, "--keep", "1/9", "--limit", 2, "--time", 0)
    assert invoke(*words(out)[:-6], *more).exit_code == 0
    labels = [
        row["label"] for row in json.loads((out / "comparison.json").read_text())["models"]["zoo/S"]["rows"]
    ]
    assert "illava 1/9" in labels


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--keep", "2"], ["--keep 2", "above 0 and up to 1"]),
        (["--method", "magic"], ["--method magic", "illava"]),
        (["--reference", "magic"], ["magic", "illava"]),
        (["--split", "train"], ["--split train", "test or val"]),
        (["--tasks", "nothing"], ["--tasks nothing", "give a folder or some of squares, others"]),
        (["--model", "zoo/XXL"], ["model zoo/XXL"]),
        (["--model", "zoo/S", "zoo-S"], ["--model zoo-S", "already in use"]),
        (["--device", "abacus"], ["device abacus"]),
        (["--output", "/dev/null/x"], ["/dev/null/x/zoo-L: cannot write there"]),
    ],
)
def test_errors(more, parts, tmp_path):
    assert_error(invoke("compare", "--output", tmp_path / "out", "--time", 0, *more), *parts)


def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(comparison_page, "write", full)
    more = ("--keep", "1/9", "--limit", 1, "--time", 0)
    assert_error(invoke(*words(tmp_path / "out")[:-6], *more), "cannot write there: No space left on device")
