"""A kill at any moment changes nothing, and nothing else is mixed into a run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from illava.evaluation.rows import fingerprint, merged_row, size
from illava.evaluation.store import ANSWERS, SETTINGS, Store
from illava.io.pictures import InputError
from illava.methods import Illava

from .conftest import ROWS, Squares, answers, summary

SRC = Path(__file__).parents[2] / "src"


def test_cut_anywhere(undisturbed, go, tmp_path):
    """A kill leaves a beginning of the file, to the byte: any of them leads to the same end."""
    whole = answers(undisturbed)
    rng = random.Random(0)
    ends = [1, whole.index(b"\n"), len(whole) - 1]
    for place, end in enumerate([*ends, *(rng.randrange(len(whole)) for _ in range(3))]):
        folder = tmp_path / str(place)
        folder.mkdir()
        (folder / SETTINGS).write_bytes((undisturbed.folder / SETTINGS).read_bytes())
        (folder / ANSWERS).write_bytes(whole[:end])
        again = go(folder)
        assert answers(again) == whole
        assert summary(again) == summary(undisturbed)


def test_finished_run_asks_nothing(undisturbed, go, monkeypatch, loaded):
    monkeypatch.setattr(loaded[0], "generate", None)
    before = answers(undisturbed)
    assert answers(go(undisturbed.folder)) == before


def test_sigkill(undisturbed, go, tmp_path):
    code = f"""
import sys; sys.path[:0] = [{str(SRC)!r}, {str(SRC.parent)!r}]
import torch; torch.set_num_threads(1)
from pathlib import Path
from tests.evaluation.conftest import ROWS, Squares
from illava.ask import load
from illava.evaluation.rows import describe
from illava.evaluation.run import run
from illava.evaluation.store import Store
loaded, tasks = load("zoo/S"), (Squares(),)
options = dict(limit=6, batch_size=4, seed=0, split="test", max_new_tokens=3)
with Store({str(tmp_path)!r}, describe("zoo/S", loaded[0], tasks, ROWS, **options)) as store:
    run(*loaded, tasks, ROWS, store, 6, 4, 3)
"""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE)
    begun = tmp_path / ANSWERS
    while process.poll() is None and not (begun.exists() and begun.stat().st_size):
        time.sleep(0.002)
    time.sleep(random.random() * 0.8)
    process.send_signal(signal.SIGKILL)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode in (0, -signal.SIGKILL), stderr.decode()
    again = go(tmp_path)
    assert answers(again) == answers(undisturbed)
    assert summary(again) == summary(undisturbed)


def test_torn_line_in_the_middle(undisturbed, go, tmp_path):
    lines = answers(undisturbed).splitlines(keepends=True)
    (tmp_path / SETTINGS).write_bytes((undisturbed.folder / SETTINGS).read_bytes())
    (tmp_path / ANSWERS).write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(InputError, match="line 2 is invalid"):
        go(tmp_path)


def test_line_twice_counts_once(undisturbed, go, tmp_path):
    whole = answers(undisturbed)
    (tmp_path / SETTINGS).write_bytes((undisturbed.folder / SETTINGS).read_bytes())
    (tmp_path / ANSWERS).write_bytes(whole + whole.splitlines(keepends=True)[0])
    assert summary(go(tmp_path)) == summary(undisturbed)


def test_extended(undisturbed, go, tmp_path):
    """A larger limit, a row and a task more: as if all had been asked for at once."""
    tasks = (Squares(), Squares("more", length=3))
    go(tmp_path / "a", rows=ROWS[:2], limit=4)
    grown = go(tmp_path / "a", tasks)
    assert summary(grown) == summary(go(tmp_path / "b", tasks))
    assert {line["sample"] for line in grown.lines if line["task"] == "more"} == {0, 1, 2}


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"model": "zoo/L"},
        {"weights": "0"},
        {"split": "val"},
        {"dtype": "float16"},
        {"batch_size": 2},
    ],
)
def test_other_settings_are_refused(undisturbed, go, changed):
    (key, value), before = *changed.items(), answers(undisturbed)
    with pytest.raises(InputError, match=rf"other settings: {key} .* there, {value} here; .*--output"):
        go(undisturbed.folder, **changed)
    assert answers(undisturbed) == before


def test_less_is_refused(undisturbed, go):
    with pytest.raises(
        InputError, match=r"rows illava 1/3, illava 1/9 there, none here; limit 6 there, 5 here"
    ):
        go(undisturbed.folder, rows=ROWS[:1], limit=5)
    with pytest.raises(InputError, match="tasks squares there, none here"):
        go(undisturbed.folder, tasks=(Squares("else"),))


def test_other_row_of_the_same_name(undisturbed, go):
    row = merged_row(Illava(keep=1 / 3, reduce="drop"), 1 / 3)
    with pytest.raises(InputError, match=r"row illava 1/3 .*drop"):
        go(undisturbed.folder, rows=(ROWS[0], row, ROWS[2]))


def test_folders_that_cannot_be_used(undisturbed, go, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write there"):
        go(tmp_path / "file")
    (tmp_path / ANSWERS).write_bytes(answers(undisturbed))
    with pytest.raises(InputError, match=f"no {SETTINGS}"):
        go(tmp_path)
    (tmp_path / SETTINGS).write_text("[]")
    with pytest.raises(InputError, match="not the settings"):
        go(tmp_path)


def test_one_writer_at_a_time(undisturbed, go):
    pytest.importorskip("fcntl")
    with (
        Store(undisturbed.folder, undisturbed.settings),
        pytest.raises(InputError, match="another evaluation is using it"),
    ):
        go(undisturbed.folder)


def test_full_disk(undisturbed, tmp_path, monkeypatch):
    with Store(tmp_path, undisturbed.settings) as store:

        def refuse(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", refuse)
        with pytest.raises(InputError, match="No space left"):
            store.append(undisturbed.lines[:1])


def test_fingerprint_sees_weights(loaded):
    model = loaded[0]
    before, weight = fingerprint(model), next(model.parameters())
    with torch.no_grad():
        weight[0] += 1
        assert fingerprint(model) != before
        weight[0] -= 1


def test_size():
    assert size(Squares(), 7) == 7
    assert size(Squares(length=3), 7) == 3
