"""IN that is edited while the command runs, and rows that fail in ways that nobody has thought of."""

from __future__ import annotations

import pytest

from illava.batch.run import Batch, in_this_process
from illava.errors import InputError
from illava.serving.settings import Settings
from illava.serving.source import Source

from .conftest import read, write

SETTINGS = Settings("zoo/S", keep=1 / 9, max_tokens=2, max_batch=2)


class Failing(Source):
    """A model whose processor fails at a certain question."""

    def engine(self, settings):
        engine = super().engine(settings)
        prepare = engine.prepare

        def failing(messages, pictures):
            if messages[0].content[-1].text == "Fail!":
                raise RuntimeError("no\nway")
            return prepare(messages, pictures)

        engine.prepare = failing
        return engine


def rows(*questions):
    return [{"id": question, "question": question} for question in questions]


def test_what_changes_while_the_command_runs_waits_for_the_next_run(tmp_path):
    path, out = write(tmp_path / "in.jsonl", rows("1?", "2?", "3?", "4?")), tmp_path / "out.jsonl"
    with Batch(path, out, Source("zoo/S"), SETTINGS) as batch:
        assert batch.left == 4
        write(path, rows("1?", "two?", "3?", "4?", "5?"))
        planned = batch.plan(lambda _: None)
        # Of the same length, so that all lines are where they were.
        write(path, rows("1?", "two?", "x?", "4?", "5?"))
        done = batch.answer(in_this_process, planned, lambda _: None)
    assert (done.answered, done.bad) == (2, 2)
    assert [line["id"] for line in read(out)] == ["1?", "4?"]
    said = "its line is not the one that the command has read; run the command again"
    bad = read(tmp_path / "out.bad.jsonl")
    assert sorted((line["row"], line["error"]) for line in bad) == [(2, said), (3, said)]
    with Batch(path, out, Source("zoo/S"), SETTINGS) as batch:
        assert (batch.left, sorted(batch.results.done)) == (3, [1, 4])
        batch.answer(in_this_process, batch.plan(lambda _: None), lambda _: None)
    assert [line["id"] for line in read(out)] == ["1?", "two?", "x?", "4?", "5?"]


def test_a_row_whose_prompt_cannot_be_made_is_bad_and_the_run_goes_on(tmp_path):
    path, out = write(tmp_path / "in.jsonl", rows("1?", "Fail!", "3?")), tmp_path / "out.jsonl"
    with Batch(path, out, Failing("zoo/S"), SETTINGS) as batch:
        done = batch.answer(in_this_process, batch.plan(lambda _: None), lambda _: None)
    assert [line["id"] for line in read(out)] == ["1?", "3?"]
    assert read(done.side) == [{"row": 2, "id": "Fail!", "error": "RuntimeError: no way"}]


def test_in_that_is_gone_is_said_in_one_line(tmp_path):
    path = write(tmp_path / "in.jsonl", rows("1?"))
    with Batch(path, tmp_path / "out.jsonl", Source("zoo/S"), SETTINGS) as batch:
        planned = batch.plan(lambda _: None)
        path.unlink()
        for late in (lambda: batch.plan(print), lambda: batch.answer(in_this_process, planned, print)):
            with pytest.raises(InputError, match=r"in\.jsonl: cannot be read: No such file or directory"):
                late()
