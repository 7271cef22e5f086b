"""The order of rows, what is resumed, and exit codes, with made-up parts in place of measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from illava_lab.benchmarks.gpu import command, results
from illava_lab.benchmarks.gpu.budget import Budget
from illava_lab.benchmarks.gpu.context import Row
from illava_lab.benchmarks.gpu.parts import Part
from illava_lab.benchmarks.gpu.settings import REHEARSAL


class Made:
    """Made-up parts on a clock of their own; notes which rows ran."""

    def __init__(self) -> None:
        self.time, self.ran = 0.0, list[str]()
        self.bad: dict[str, Any] = {}

    def part(self, name: str, *rows: tuple[str, float], reserve: float = 0.0) -> Part:
        return Part(
            name, lambda _: [Row(key, s, lambda key=key, s=s: self.run(key, s)) for key, s in rows], reserve
        )

    def run(self, key: str, seconds: float) -> dict[str, Any]:
        self.ran.append(key)
        self.time += seconds
        bad = self.bad.get(key)
        if isinstance(bad, BaseException):
            raise bad
        return {"value": key, "failure": bad}

    def call(self, folder: Path, seconds: float, *parts: Part) -> int:
        """One call of the command; ``ran`` then holds the rows of this call."""
        self.ran, self.time = [], 0.0
        budget = Budget(seconds, now=lambda: self.time)
        return command.run({part.name: part for part in parts}, REHEARSAL, folder, budget)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(results, "source_digest", lambda: "one source")
    return Made()


def stored(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def test_a_further_call_runs_only_what_is_missing(made: Made, tmp_path: Path) -> None:
    one, two = made.part("one", ("a", 1), ("b", 1)), made.part("two", ("c", 1))
    made.bad = {"b": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        made.call(tmp_path, 10, one, two)
    assert made.ran == ["a", "b"]
    assert stored(tmp_path, "one")["rows"] == {"a": {"value": "a", "failure": None}}
    assert stored(tmp_path, "one")["not_run"] == {"b": "not run: stopped before"}
    made.bad = {}
    assert made.call(tmp_path, 10, one, two) == command.DONE
    assert made.ran == ["b", "c"]
    assert [stored(tmp_path, name)["status"] for name in ("one", "two")] == ["done", "done"]
    assert made.call(tmp_path, 10, one, two) == command.DONE
    assert made.ran == []


@pytest.mark.parametrize("changed", ["source", "card", "torch", "settings"])
def test_rows_of_another_library_card_or_setting_are_not_used(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    part = made.part("one", ("a", 1))
    made.call(tmp_path, 10, part)
    if changed == "source":
        monkeypatch.setattr(results, "source_digest", lambda: "another source")
    elif changed == "card":
        monkeypatch.setattr(results, "card", lambda _: {"name": "another card"})
    elif changed == "torch":
        monkeypatch.setattr(torch, "__version__", "99.0")
    else:
        monkeypatch.setattr(type(REHEARSAL), "to_dict", lambda _: {"rounds": 99})
    made.call(tmp_path, 10, part)
    assert made.ran == ["a"]


@pytest.fixture
def main(made: Made, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command with one made-up part, named like a real one."""
    part = made.part("equality", ("a", 1))
    monkeypatch.setitem(command.PARTS, "equality", part)
    monkeypatch.setattr(command, "add_tiny_shapes", lambda: None)
    # The captured output of a test has no file to write to.
    monkeypatch.setattr(command.faulthandler, "dump_traceback_later", lambda *_, **__: None)
    return lambda *words: command.main(["--rehearsal", "--parts", "equality", *map(str, words)])


def test_results_of_another_source_are_not_overwritten(
    main: Any, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("--output", tmp_path) == command.DONE
    before = (tmp_path / "equality.json").read_bytes()
    monkeypatch.setattr(results, "source_digest", lambda: "another source")
    assert main("--output", tmp_path) == command.USAGE
    assert "holds results of another source; give another --output, or --discard" in capsys.readouterr().out
    assert (tmp_path / "equality.json").read_bytes() == before
    made.ran = []
    assert main("--output", tmp_path, "--discard") == command.DONE
    assert made.ran == ["a"]


@pytest.mark.parametrize("content", ["[1]", '{"a": 1}', '{"part": "equ', ""])
def test_files_of_somebody_else_are_not_overwritten(
    main: Any, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "equality.json").write_text(content)
    assert main("--output", tmp_path) == command.USAGE
    assert "holds no results of this command" in capsys.readouterr().out
    assert (tmp_path / "equality.json").read_text() == content


def test_folders_that_cannot_be_written_give_one_line(
    main: Any, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "http://host/there"):
        assert main("--output", folder) == command.USAGE
        assert len(capsys.readouterr().out.splitlines()) == 1
    assert made.ran == []


def test_ctrl_c_reports_what_there_is_and_says_how_to_go_on(
    main: Any, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.bad = {"a": KeyboardInterrupt()}
    assert main("--output", tmp_path) == command.INTERRUPTED
    assert "the same command goes on" in capsys.readouterr().out
    assert (tmp_path / "table.md").exists()
    made.bad = {}
    assert main("--output", tmp_path) == command.DONE


def test_a_plot_of_earlier_results_does_not_stay(main: Any, tmp_path: Path) -> None:
    (tmp_path / "plot.png").write_bytes(b"earlier")
    assert main("--output", tmp_path) == command.DONE
    assert not (tmp_path / "plot.png").exists()


def test_the_digest_follows_the_library_and_what_measures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before, reads = results.source_digest(), Path.read_bytes
    assert results.source_digest() == before
    for name in ("merging.py", "times.py", "context.py"):
        monkeypatch.setattr(
            Path, "read_bytes", lambda file, name=name: reads(file) + b"#" * (file.name == name)
        )
        assert results.source_digest() != before
        monkeypatch.undo()


def test_a_row_whose_own_digest_changed_is_measured_again(made: Made, tmp_path: Path) -> None:
    def part(digest: str) -> Part:
        rows = [
            Row("tests", 1, lambda: made.run("tests", 1), digest=digest),
            *made.part("", ("a", 1)).rows(None),
        ]
        return Part("suite", lambda _: rows)

    made.bad = {"tests": "one failed"}
    for digest, ran in (("old", ["tests", "a"]), ("old", []), ("new", ["tests"]), ("new", [])):
        if digest == "new":
            made.bad = {}
        assert made.call(tmp_path, 10, part(digest)) == (command.DONE if digest == "new" else command.FAILED)
        assert made.ran == ran
    # Without time for it, the old result is not shown as that of the new tests.
    assert made.call(tmp_path, 0, part("newest")) == command.UNFINISHED
    assert [*stored(tmp_path, "suite")["rows"]] == ["a"]


def test_the_report_is_there_when_a_later_part_hangs(made: Made, tmp_path: Path) -> None:
    made.bad = {"c": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        made.call(tmp_path, 10, made.part("suite", ("a", 1)), made.part("equality", ("c", 1)))
    assert (tmp_path / "table.md").exists()


def test_a_report_that_fails_stops_no_measurement(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.report, "write", lambda folder: [][0])
    assert made.call(tmp_path, 10, made.part("one", ("a", 1)), made.part("two", ("b", 1))) == command.FAILED
    assert made.ran == ["a", "b"]


def test_a_failing_row_stops_nothing_else_and_is_tried_again(made: Made, tmp_path: Path) -> None:
    parts = made.part("one", ("a", 1), ("b", 1)), made.part("two", ("c", 1))
    made.bad = {"a": ValueError("no such kernel")}
    assert made.call(tmp_path, 10, *parts) == command.FAILED
    assert made.ran == ["a", "b", "c"]
    found = stored(tmp_path, "one")
    assert found["status"] == "failed"
    assert found["errors"]["a"].endswith("ValueError: no such kernel\n")
    assert [*found["rows"]] == ["b"]
    assert found["not_run"] == {}
    made.bad = {}
    assert made.call(tmp_path, 10, *parts) == command.DONE
    assert made.ran == ["a"]
    assert stored(tmp_path, "one")["errors"] == {}


def test_a_check_that_does_not_hold_fails_and_keeps_its_figures(made: Made, tmp_path: Path) -> None:
    part = made.part("one", ("a", 1))
    made.bad = {"a": "logits differ"}
    for rows in (["a"], []):
        assert made.call(tmp_path, 10, part) == command.FAILED
        assert made.ran == rows
    assert stored(tmp_path, "one")["rows"]["a"]["failure"] == "logits differ"


def test_a_part_that_cannot_list_its_rows_fails_alone(made: Made, tmp_path: Path) -> None:
    broken = Part("broken", lambda _: [][0])
    assert made.call(tmp_path, 10, broken, made.part("one", ("a", 1))) == command.FAILED
    assert made.ran == ["a"]
    assert "IndexError" in stored(tmp_path, "broken")["errors"]["rows"]


def test_what_does_not_fit_is_named_and_later_parts_have_their_share(made: Made, tmp_path: Path) -> None:
    one = made.part("one", ("a", 4), ("b", 4), ("c", 90))
    two = made.part("two", ("d", 3), reserve=5)
    assert made.call(tmp_path, 12, one, two) == command.UNFINISHED
    # After a, 8 s are left, 5 of them for the other part; after that, 5 are left for b.
    assert made.ran == ["a", "d", "b"]
    assert stored(tmp_path, "one")["status"] == "incomplete"
    assert stored(tmp_path, "one")["not_run"] == {"c": "not run: time: 90 s expected, 1 s left"}


def test_without_a_card_the_command_says_how_to_rehearse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["--output", str(tmp_path / "none")]) == command.USAGE
    assert "--rehearsal" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
