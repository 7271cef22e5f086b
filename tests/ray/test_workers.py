"""``illava batch --workers``: killed workers, a killed command, chunks that kill their workers, refusals."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import illava
from illava.batch.run import Batch, in_this_process
from illava.serving.settings import Settings
from illava.serving.source import Source
from tests.batch.conftest import DIAMOND, HEART, openai_row, read, timeless, write

from .conftest import LOOPBACK

FILES = ("number.png", "small.png", "wide.png")
COUNT = 40


def many():
    rows = [
        {"id": f"r{i}", "picture": FILES[i % 3], "question": (HEART, DIAMOND)[i % 2]} for i in range(COUNT)
    ]
    rows[4] = {"id": "broken", "picture": "broken.png", "question": HEART}
    rows[5] = openai_row("openai", "small.png", DIAMOND, keep="1/3")
    return ["{oops", *rows]


def here(pictures, rows):
    """OUT and the bad rows of a run in this process."""
    settings = Settings("zoo/S", keep=1 / 9, max_tokens=6, max_batch=1)
    out = pictures / "here.jsonl"
    with Batch(write(pictures / "here-in.jsonl", rows), out, Source("zoo/S"), settings) as batch:
        batch.answer(in_this_process, batch.plan(lambda _: None), lambda _: None)
    return list(map(timeless, read(out))), read(pictures / "here.bad.jsonl")


def test_killed_and_continued(pictures, start):
    path, out = write(pictures / "in.jsonl", many()), pictures / "out.jsonl"
    words = ("batch", path, out, "--model", "zoo/S", "--keep", "1/9", "--max-new-tokens", 6)
    words += ("--max-batch", 1, "--workers", 2)
    command = start(*words)
    command.until(lambda: out.exists() and out.stat().st_size)
    assert command.listening() <= LOOPBACK
    workers = command.until(lambda: len(found := command.processes("ray::MapWorker")) == 2 and found)
    # One worker dies, which nobody but Ray notices...
    os.kill(next(iter(workers)), signal.SIGKILL)
    size = out.stat().st_size
    command.until(lambda: out.stat().st_size > size)
    # ... then the command itself, with all that it started.
    command.process.kill()
    command.end()
    before = read(out)
    assert 0 < len(before) < COUNT - 1
    command.kill_all()
    command = start(*words)
    said, errors = command.end()
    assert command.process.returncode == 0, errors
    assert said == f"{out}: {COUNT - 1 - len(before)} rows answered, {len(before)} before\n"
    assert errors.count("\n") == 1, errors
    assert "out.bad.jsonl: 2 rows without an answer; row 1: the row is not valid JSON" in errors
    lines, bad = here(pictures, many())
    assert list(map(timeless, read(out))) == lines
    assert read(pictures / "out.bad.jsonl") == bad
    written = {line["row"]: line for line in read(out)}
    assert all(written[line["row"]] == line for line in before)
    # No process is left.
    assert not command.processes()


class Dying(Source):
    """A model that kills its process at a certain question."""

    def engine(self, settings):
        engine = super().engine(settings)
        prepare = engine.prepare

        def deadly(messages, pictures):
            if messages[0].content[-1].text == "Die!":
                os._exit(1)
            return prepare(messages, pictures)

        engine.prepare = deadly
        return engine


def test_a_chunk_that_kills_its_workers_does_not_end_the_run(pictures, monkeypatch):
    import sys

    from ray import cloudpickle

    from illava.batch.on_ray import Workers

    # Workers have no tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    temporary = tempfile.mkdtemp(prefix="r-")
    monkeypatch.setattr(tempfile, "tempdir", temporary)
    rows = many()[1:13]
    rows[0] = {"id": "deadly", "picture": "number.png", "question": "Die!"}
    settings = Settings("zoo/S", keep=1 / 9, max_tokens=6, max_batch=1)
    out = pictures / "out.jsonl"
    try:
        with Batch(write(pictures / "in.jsonl", rows), out, Dying("zoo/S"), settings) as batch:
            planned = batch.plan(lambda _: None)
            done = batch.answer(Workers(2).answer, planned, lambda _: None)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    chunk = next([line.number for line in lines] for lines in planned if 1 in [n.number for n in lines])
    bad = {line["row"]: line["error"] for line in read(done.side)}
    assert set(bad) == {*chunk, 5}
    assert {bad[number] for number in chunk if number != 5} == {
        "3 workers died while they answered its chunk"
    }
    expected, _ = here(pictures, rows)
    assert list(map(timeless, read(out))) == [line for line in expected if line["row"] not in bad]


def test_what_workers_refuse_is_one_line(pictures, folder, start, tmp_path):
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    illava.FastV(layer=9).save_pretrained(model)
    path = write(pictures / "in.jsonl", many())
    command = start("batch", path, pictures / "out.jsonl", "--model", model, "--workers", 1)
    said, errors = command.end()
    assert (command.process.returncode, said) == (2, "")
    assert errors.startswith("illava: method fastv: ")
    assert errors.count("\n") == 1, errors
