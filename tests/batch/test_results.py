"""OUT and the files beside it: what is continued, what is refused, and what a kill leaves."""

from __future__ import annotations

import json
import os

import pytest

from illava.batch.files import read_lines
from illava.batch.results import Results, beside
from illava.batch.worker import Outcome
from illava.errors import InputError

from .conftest import read, write

SETTINGS = {"model": "toy", "keep": None, "max_tokens": 8}


@pytest.fixture
def rows(tmp_path):
    """IN with five rows, and OUT."""
    return write(tmp_path / "in.jsonl", [{"question": f"{i}?"} for i in range(1, 6)]), tmp_path / "out.jsonl"


def opened(rows, **settings):
    path, out = rows
    return Results(out, {**SETTINGS, **settings}, [line for line, _ in read_lines(path)])


def answers(*numbers):
    return Outcome(answers=[{"row": number, "answer": f"{number}!"} for number in numbers])


def test_out_grows_and_ends_in_the_order_of_in(rows):
    with opened(rows) as results:
        assert results.done == set()
        results.append(answers(4, 2))
        assert [line["row"] for line in read(rows[1])] == [4, 2]
        results.append(answers(5, 1, 3))
        results.finish()
    assert read(rows[1]) == [{"row": number, "answer": f"{number}!"} for number in range(1, 6)]
    before = rows[1].stat().st_ino
    with opened(rows) as results:
        assert results.done == {1, 2, 3, 4, 5}
        results.finish()
    # Nothing to do: the file is not written again.
    assert rows[1].stat().st_ino == before


def test_a_row_is_never_written_twice(rows):
    with opened(rows) as results:
        results.append(answers(4, 2))
    with opened(rows) as results:
        assert results.done == {2, 4}
        results.append(Outcome(answers=[{"row": 2, "answer": "another"}, {"row": 1, "answer": "1!"}]))
        results.append(answers(1))
    assert read(rows[1]) == [{"row": number, "answer": f"{number}!"} for number in (4, 2, 1)]


@pytest.mark.parametrize("torn", ['{"row": 3, "ans', '{"row": 3, "answer": "3!"}', "{"])
def test_a_torn_last_line_is_dropped(rows, torn):
    with opened(rows) as results:
        results.append(answers(4, 2))
    with rows[1].open("a") as file:
        file.write(torn)
    with opened(rows) as results:
        assert results.done == {2, 4}
        results.append(answers(3))
    assert [line["row"] for line in read(rows[1])] == [4, 2, 3]


@pytest.mark.parametrize("line", ["{", '{"answer": 1}', '{"row": "1"}', "[1]", "1"])
def test_an_invalid_line_in_the_middle_is_refused(rows, line):
    with opened(rows) as results:
        results.append(answers(4))
    with rows[1].open("a") as file:
        file.write(f'{line}\n{{"row": 2}}\n')
    with pytest.raises(InputError, match=r"out\.jsonl: line 2 is invalid: .*; correct it"):
        opened(rows)


def test_bad_rows_begin_anew_with_each_run(rows):
    side = beside(rows[1], ".bad.jsonl")
    assert side.name == "out.bad.jsonl"
    with opened(rows) as results:
        results.append(Outcome(bad=[{"row": 2, "id": None, "error": "no"}]))
        results.append(Outcome(bad=[{"row": 3, "id": None, "error": "no"}]))
        assert results.failed == 2
    assert [line["row"] for line in read(side)] == [2, 3]
    with opened(rows) as results:
        # They are tried again.
        assert results.done == set()
        assert not side.exists()


def test_other_settings_are_refused_and_named(rows):
    with opened(rows) as results:
        results.append(answers(1))
    said = "keep null there, 0.5 here; max_tokens 8 there, 9 here; give the same ones to continue it"
    with pytest.raises(InputError, match=said):
        opened(rows, keep=0.5, max_tokens=9)
    assert [line["row"] for line in read(rows[1])] == [1]
    with opened(rows) as results:
        assert results.done == {1}


def test_rows_may_be_appended_and_corrected_until_they_are_answered(rows):
    with opened(rows) as results:
        results.append(answers(1, 2))
    path, out = rows
    content = path.read_text()
    path.write_text(content.replace("4?", "four?") + '{"question": "6?"}')
    with opened(rows) as results:
        assert results.done == {1, 2}
        results.append(answers(4))
    # With another end of the last line it is the same row.
    path.write_text(path.read_text() + "\r\n")
    opened(rows).close()
    path.write_text(content.replace("4?", "vier?").replace("2?", "zwei?"))
    with pytest.raises(InputError, match="row 2 and 1 more changed since it was answered"):
        opened(rows)
    path.write_text(content.replace('{"question": "1?"}\n', ""))
    with pytest.raises(InputError, match="row 1 and 2 more changed"):
        opened(rows)
    assert [line["row"] for line in read(out)] == [1, 2, 4]


def test_a_file_of_others_is_not_touched(rows):
    _, out = rows
    out.write_text("mine\n")
    with pytest.raises(InputError, match=r"it has lines, but there is no out\.run\.json"):
        opened(rows)
    assert out.read_text() == "mine\n"
    for other in ("[]", "{", '{"format": 2, "settings": {}, "lines": {}}'):
        beside(out, ".run.json").write_text(other)
        with pytest.raises(InputError, match=r"out\.run\.json: not written by illava batch"):
            opened(rows)
    assert out.read_text() == "mine\n"


def test_one_run_at_a_time(rows):
    pytest.importorskip("fcntl")
    with opened(rows), pytest.raises(InputError, match="another run writes to it"):
        opened(rows)
    opened(rows).close()


def test_a_file_that_another_run_replaced_before_it_was_locked(rows, monkeypatch):
    """What is written to the old one would be lost."""
    fcntl = pytest.importorskip("fcntl")
    flock, out = fcntl.flock, rows[1]

    def late(file, how):
        # As the other run does at its end, when all lines are put into the order of IN.
        out.with_suffix(".new").write_text("")
        os.replace(out.with_suffix(".new"), out)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InputError, match="another run writes to it"):
        opened(rows)
    monkeypatch.undo()
    opened(rows).close()


def test_where_nothing_can_be_written(rows, tmp_path):
    with pytest.raises(InputError, match="cannot write there: No such file or directory"):
        opened((rows[0], tmp_path / "none" / "out.jsonl"))


def test_the_run_file_identifies_the_run(rows):
    opened(rows).close()
    fields = json.loads(beside(rows[1], ".run.json").read_text())
    assert fields["settings"] == SETTINGS
    assert list(fields["lines"]) == ["1", "2", "3", "4", "5"]
    assert len(set(fields["lines"].values())) == 5
