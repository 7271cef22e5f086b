"""docs/zoo-r-figures.md: what is said of made-up figures, and that the page says what its files hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from illava_lab.benchmarks.zoo_r import alone, claims, page, times
from illava_lab.benchmarks.zoo_r.__main__ import publish
from illava_lab.benchmarks.zoo_r.contest import SMALLER, entered

from illava import Illava
from illava.evaluation.equal_time_page import heading
from illava.evaluation.store import Line
from illava.evaluation.summary import MEANS

TASKS = ("real-clothing", "real-words", "real-forms")


def row(
    label: str, above: float, ttft: float | None, accuracies: tuple[float, ...], **more: Any
) -> dict[str, Any]:
    """A row as illava compare writes it."""
    merged = label not in ("plain", "blank", "text only")
    return {
        "label": label,
        "method": label.split()[0],
        "keep": 1 / 9 if merged else None,
        "budget": label.split()[-1] if merged else None,
        "options": {} if merged else None,
        "refused": None,
        "above_blank": {"value": above, "low": above - 5, "high": above + 5},
        "flops": 0.25,
        "final_tokens": 114.0,
        "ttft": {"value": ttft, "low": ttft, "high": ttft},
        "tasks": dict(zip(TASKS, accuracies, strict=True)),
        "groups": {},
        "task_intervals": {
            name: [value - 10, value + 10] for name, value in zip(TASKS, accuracies, strict=True)
        },
        **more,
    }


@pytest.fixture
def figures() -> dict[str, Any]:
    """illava-best is best over all tasks at 2x, another one at text and at 3x; nothing reaches 4x."""
    rows = [
        row("plain", 100, 1.0, (90, 80, 40)),
        row("blank", 0, None, (10, 20, 40)),
        row("text only", 0, None, (12, 20, 35)),
        row(
            "illava-best 1/3",
            95,
            0.45,
            (88, 50, 40),
            groups={"text": {"value": 50.0, "low": 40.0, "high": 60.0}},
        ),
        row(
            "illava-best 1/9",
            70,
            0.32,
            (70, 32, 40),
            groups={"text": {"value": 20.0, "low": 10.0, "high": 30.0}},
        ),
        row("tome 1/9", 80, 0.3, (66, 74, 40), groups={"text": {"value": 90.0, "low": 80.0, "high": 99.0}}),
        row("dart 1/9", 99, 0.9, (89, 79, 40)),
    ]
    rows.append(
        {**row("refused 1/9", 0, None, (0, 0, 0)), "refused": "it is not for this model", "tasks": {}}
    )
    tasks = {name: {"samples": 40, "pictures": 40, "in_mean": name != "real-forms"} for name in TASKS}
    settings = {
        "dtype": "float32",
        "device": "cpu",
        "split": "test",
        "limit": 40,
        "weights": "abc",
        "illava": "0",
        "rows": {},
    }
    return {"rows": rows, "tasks": tasks, "groups": ["text"], "settings": settings, "timing": None}


def cells(lines: list[str]) -> dict[str, list[str]]:
    """The rows of a table by their first cells."""
    split = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {cell[0]: cell[1:] for cell in split}


def test_the_best_of_those_that_are_fast_enough_is_named(figures: dict[str, Any]) -> None:
    said = cells(page.fastest(figures, "illava-best")[0])
    ours = "illava-best 1/3: 95.0 (90.0-100.0) %, 2.22x"
    assert said["all tasks, 2x"] == [ours, ours]
    assert said["all tasks, 3x"] == [
        "tome 1/9: 80.0 (75.0-85.0) %, 3.33x",
        "illava-best 1/9: 70.0 (65.0-75.0) %, 3.12x",
    ]
    assert said["all tasks, 4x"][0] == "none is that fast"
    assert said[f"{heading('text')}, 2x"] == [
        "tome 1/9: 90.0 (80.0-99.0) %, 3.33x",
        "illava-best 1/3: 50.0 (40.0-60.0) %, 2.22x",
    ]
    assert said[f"{heading('text')}, 3x"][1] == "illava-best 1/9: 20.0 (10.0-30.0) %, 3.12x"


def test_what_is_fast_enough_in_another_dtype_has_a_table_of_its_own(figures: dict[str, Any]) -> None:
    shares = {"tome 1/9": 0.22, "illava-best 1/9": 0.4}
    again = {"dtype": "bfloat16", "ttft": {name: {"value": share} for name, share in shares.items()}}
    first, second, _ = page.fastest(figures, "illava-best", again)
    assert (first[0], second[0]) == ("Times in float32:", "Times in bfloat16, of the rows at 1/9 alone:")
    said = cells(second)
    assert said["all tasks, 4x"][0] == "tome 1/9: 80.0 (75.0-85.0) %, 4.55x"
    assert said["all tasks, 2x"][1] == "illava-best 1/9: 70.0 (65.0-75.0) %, 2.50x"
    assert cells(first)["all tasks, 4x"][0] == "none is that fast"


def test_a_group_without_intervals_is_not_ranked(figures: dict[str, Any]) -> None:
    """One task that is hardly above blank made 150 % of two questions."""
    for found in figures["rows"]:
        if found["groups"]:
            found["groups"]["text"] |= {"low": None, "high": None}
    assert f"{heading('text')}, 2x" not in cells(page.fastest(figures, "illava-best")[0])


def test_figures_of_other_weights_are_refused(figures: dict[str, Any]) -> None:
    found = {"reference": "illava-best", "trained": "abc", "models": {"zoo/R-448": figures}}
    contest = {"trained": "def", "contestants": {}}
    with pytest.raises(ValueError, match="different trained weights"):
        page.page(page.Found(found, contest=contest), [])


def test_claims_are_held_against_both_times_and_the_interval(figures: dict[str, Any]) -> None:
    figures["rows"] += [
        row("illava 1/9", 40, 0.24, (40, 20, 40)),
        row("candidate-encoder 1/9", 101, 0.3, (90, 80, 40)),
    ]
    again = {"dtype": "float32", "ttft": {"candidate-encoder 1/9": {"value": 0.2}}}
    said = cells(claims.lines(figures, again))
    assert said["illava 1/9"] == ["4.17", "-", "yes", "40.0 (35.0-45.0)", "no"]
    assert said["illava-best 1/9"][2:] == ["no", "70.0 (65.0-75.0)", "no"]
    assert said["candidate-encoder 1/9"] == ["3.33", "5.00", "yes", "101.0 (96.0-106.0)", "yes"]
    assert claims.held({"value": 94, "low": 90, "high": 98}) == "perhaps"


def test_the_contest_is_told_whoever_wins() -> None:
    figure = {"value": 1.5, "low": 1.25, "high": 1.75}
    result = {"accuracy": figure, "points": figure, "milliseconds": 1234.5, "times_faster": figure}
    contest = {
        "contestants": {"R-448 merged to 1/9": {**result, "wins": "perhaps"}},
        "each": 20,
        "tasks": ["real-clothing"],
        "dtype": "bfloat16",
        "machine": {"cpu": "a CPU", "torch": "2"},
    }
    assert cells(page.larger(contest))["R-448 merged to 1/9"] == [
        *("1.5 (1.2-1.8)", "1.5 (1.2-1.8)", "1,234", "1.50 (1.25-1.75)", "perhaps")
    ]


def test_what_plain_can_do_stands_beside_what_can_be_guessed(figures: dict[str, Any]) -> None:
    said = cells(page.plain_tasks(figures))
    assert said["real-clothing"] == ["40", "90.0 (80.0-100.0)", "10.0 (0.0-20.0)", "12.0 (2.0-22.0)"]
    assert "real-forms \\*" in said


def test_every_task_has_a_column(figures: dict[str, Any]) -> None:
    said = cells(page.by_task(figures))
    assert said["accuracy, %"] == ["clothing", "words", "forms"]
    # Those at the budget, the most above blank first.
    assert list(said)[2:] == ["plain", "blank", "dart 1/9", "tome 1/9", "illava-best 1/9"]
    assert said["tome 1/9"] == ["66", "74", "40"]


def test_what_did_not_run_is_said(figures: dict[str, Any]) -> None:
    lines = page.methods(figures)
    assert lines[-1] == "Not run: refused 1/9 (it is not for this model)."
    assert list(cells(lines))[-4:] == ["tome 1/9", "illava-best 1/9", "illava-best 1/3", "dart 1/9"]


def test_published_figures_make_the_page(figures: dict[str, Any], tmp_path: Any) -> None:
    sources = [tmp_path / "one", tmp_path / "other"]
    for source, name in zip(sources, ("zoo/R-448", "zoo/R-336"), strict=True):
        source.mkdir()
        found = {"reference": "illava-best", "models": {name: figures}}
        (source / "comparison.json").write_text(json.dumps(found))
    publish(sources, tmp_path / "docs", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert text == page.page(
        page.read(tmp_path / "docs"), [path.name for path in (tmp_path / "docs").glob("*.png")]
    )
    assert "zoo-r/zoo-R-448-ttft.png" in text
    assert "## zoo/R-336: every method" in text
    assert (tmp_path / "docs" / "zoo-R-448-ttft.png").is_file()


def test_the_page_says_what_its_files_hold() -> None:
    if not page.PAGE.exists():
        assert not page.FOLDER.exists(), "there are figures without a page"
        return
    plots = [path.name for path in page.FOLDER.glob("*.png")]
    assert page.PAGE.read_text(encoding="utf-8") == page.page(page.read(page.FOLDER), plots)


def test_the_smaller_model_is_one_of_the_contestants() -> None:
    found = entered()
    assert found[SMALLER] == ("R-224", None)
    assert {size for size, _ in found.values()} == {"R-224", "R-336", "R-448"}
    assert [label for label, (_, method) in found.items() if method] == [
        "R-448 merged to 1/3",
        "R-448 merged to 1/9",
        "R-448 candidate-encoder 1/9",
    ]


REST = {"small": False, "kind": "", **dict.fromkeys(MEANS, 1.0)}


def answers(task: str, right: tuple[int, int], of: int) -> list[Line]:
    """``of`` answers in each row, of which so many are right: plain, blank; a quarter without pictures."""
    return [
        {"task": task, "row": label, "sample": n, "correct": n < count, "cluster": None, **REST}
        for label, count in zip(alone.BASELINES, (*right, of // 4), strict=True)
        for n in range(of)
    ]


def test_a_task_is_learnt_if_plain_reaches_75_percent_clearly_above_blank() -> None:
    given = {"learnt": (18, 6), "guessed": (18, 17), "below": (14, 0)}
    settings = {"seed": 0, "rows": dict.fromkeys(alone.BASELINES), "tasks": dict.fromkeys(given)}
    found = alone.figures(settings, [line for name in given for line in answers(name, given[name], 20)])
    assert {name: task["learnt"] for name, task in found["tasks"].items()} == {
        "learnt": True,
        "guessed": False,
        "below": False,
    }
    assert found["tasks"]["learnt"]["above"]["value"] == pytest.approx(60)
    assert found["tasks"]["learnt"]["text only"]["value"] == pytest.approx(25)
    options = {"model": "zoo/R-448", "dtype": "bfloat16", "split": "test", "weights": "abc"}
    said = page.alone({**found, "settings": options})
    assert "1 of 3 tasks" in said[-1]
    assert cells(said)["learnt \\*\\*"][:2] == ["20", "90.0 (75.0-100.0)"]


def test_times_of_another_run_stand_beside_the_first(figures: dict[str, Any]) -> None:
    again = {
        "dtype": "float32",
        "ttft": {"tome 1/9": {"value": 0.2}},
        "plain": 2.0,
        "threads": 2,
        "prompts": [["real-clothing", 0]],
        "machine": {"cpu": "a CPU"},
    }
    lines = page.methods(figures, again)
    assert cells(lines)["row"][2] == "in float32"
    assert cells(lines)["tome 1/9"][1:3] == ["3.33", "5.00"]
    assert cells(lines)["dart 1/9"][1:3] == ["1.11", "-"]
    assert "the first token of plain takes 2.00 s" in page.settings(figures, again)[0]


def test_the_rows_that_are_timed_again_are_those_that_ran(figures: dict[str, Any]) -> None:
    for row in figures["rows"][3:]:
        row["options"] = Illava(0.5).to_dict()
    assert [row.label for row in times.rows_of(figures)] == ["illava-best 1/9", "tome 1/9", "dart 1/9"]
    assert times.rows_of(figures)[0].method == Illava(0.5)
