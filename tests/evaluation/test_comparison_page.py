"""What is written of a comparison: the page with its verdict, table, plots, and their way into docs."""

from __future__ import annotations

import csv
import io
import json
import re
import sys

import pytest
from illava_lab.benchmarks.comparison import publish

from illava.evaluation import comparison, comparison_page
from illava.evaluation.comparison import compare
from illava.io.plots import HINT

from .made_up import DRAWS, WRONG, answers, measured


@pytest.fixture(scope="module")
def found():
    return compare({"zoo/S": measured()}, "illava", DRAWS)


def test_the_verdict_follows_the_figures(found):
    text = comparison_page.to_markdown(found)
    ahead, rest = text.split("**Ahead of *illava*, but not significantly:**")
    behind = rest.split("**Behind *illava*, significantly:**")[1]
    assert text.startswith("# Comparison of methods\n\n## Verdict\n")
    assert "**Ahead of *illava*, significantly:**\n\n- None." in ahead
    assert "- zoo/S: shuffled 1/3 +2.5." in rest.split("**Behind")[0]
    assert "- zoo/S: worst 1/3 -45.0 (" in behind
    order = [text.index(part) for part in ("**Ahead of", "**Behind", "**On the Pareto", "How much")]
    assert order == sorted(order)
    assert "of *illava* 1 of 2 rows." in text
    assert "3 comparisons were made" in text
    assert "about 0.2 of them (5 %)" in text
    assert "Left out of them, below 75 % plain: weak." in text
    assert "nan" not in text.lower()
    # From the other's point of view.
    turned = comparison_page.to_markdown(compare({"zoo/S": measured()}, "worst", DRAWS))
    ahead = turned.split("but not significantly")[0]
    assert "- zoo/S: shuffled 1/3 +47.5 (" in ahead
    assert "illava 1/3 +45.0 (" in ahead


def test_marks_follow_the_tests(found):
    row = next(r for r in found["models"]["zoo/S"]["rows"] if r["label"] == "worst 1/3")
    for significant, holds, mark in ((True, True, " \\*\\*"), (True, False, " \\*"), (False, False, "")):
        text = comparison_page.difference({**row, "significant": significant, "holds": holds})
        assert text.split(")")[1] == mark
    assert comparison_page.difference({**row, "holds": True}, short=True) == "-45.0 \\*\\*"


def test_tables(found):
    text = comparison_page.to_markdown(found)
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in reversed(text.splitlines())}
    assert "not run: not with a \\| in it" in lines["worst 1/9"]
    assert " 49.0 \u2020 " in lines["shuffled 1/3"]
    assert " 16.0 | 50.0 | 0.250 | 0.400 | 0.25 (0.12-0.50) |" in lines["illava 1/9"]
    tasks = text.split("task by task")[1]
    assert "| row | a | b | weak * |" in tasks
    assert "| illava 1/9 | 70.0 | 60.0 | 55.0 |" in tasks
    assert "| worst 1/9 | - | - | - |" in tasks
    # The best of a budget comes first in it.
    names = [line.split(" | ")[0].removeprefix("| ") for line in tasks.splitlines() if line.startswith("| ")]
    assert names[2:] == [
        "plain",
        "blank",
        "text only",
        "shuffled 1/3",
        "illava 1/3",
        "worst 1/3",
        "illava 1/9",
        "shuffled 1/9",
        "worst 1/9",
        "mine as saved",
        "yours as saved",
    ]


def test_csv_agrees_with_json(found, tmp_path):
    assert comparison_page.write(tmp_path, found) is None
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert kept == json.loads(json.dumps(found, allow_nan=False))
    table = list(csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text(), newline="")))
    rows = [(model, row) for model, figures in kept["models"].items() for row in figures["rows"]]
    assert len(table) == len(rows)
    for line, (model, row) in zip(table, rows, strict=True):
        assert (line["model"], line["row"], line["method"]) == (model, row["label"], row["method"])
        for key, cell in line.items():
            name, _, end = key.rpartition("_")
            if end in ("low", "high"):
                value = row[name][end]
            elif key in ("model", "row"):
                continue
            else:
                value = row[key]["value"] if isinstance(row[key], dict) else row[key]
            if value is None or value == "":
                assert cell == ""
            elif isinstance(value, bool | str):
                assert cell == str(value)
            else:
                assert float(cell) == value
    assert {"accuracy_low", "above_blank_high", "ttft", "difference", "p_holm", "final_tokens"} <= set(
        table[0]
    )


def test_plots_and_their_alt_texts(found, tmp_path, monkeypatch):
    assert comparison_page.write(tmp_path, found) is None
    text = (tmp_path / "comparison.md").read_text()
    for cost in comparison.COSTS:
        name = f"comparison/zoo-S-{cost}.png"
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        alt = text.split(f"]({name})")[0].split("![")[-1]
        # Better from left to right; plain and six rows have both figures, or seven where costs are computed.
        assert alt.startswith("zoo/S: retained above blank")
        assert "from the cheapest: shuffled 1/9 (0.20, 9.1), illava 1/9 (0.25, 54.5)" in alt
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert comparison_page.write(tmp_path / "no", found) == HINT
    assert "![" not in (tmp_path / "no" / "comparison.md").read_text()


def test_without_times_and_without_tasks_that_count(tmp_path):
    untimed = compare({"m": measured(timing=False)}, "illava", DRAWS)
    assert untimed["models"]["m"]["fronts"]["ttft"] == []
    assert "measured: not measured." in comparison_page.to_markdown(untimed)
    lines = answers({task: counts | {"plain": 9} for task, counts in WRONG.items()})
    found = compare({"m": measured(lines)}, "illava", DRAWS)
    assert comparison_page.write(tmp_path, found) is None
    text = (tmp_path / "comparison.md").read_text()
    assert "m: plain, it reaches 75 % at no task, so nothing can be said." in text
    assert "0 comparisons were made" in text
    assert list((tmp_path / "comparison").iterdir()) == []


def test_nothing_is_half_written(found, tmp_path, monkeypatch):
    comparison_page.write(tmp_path, found)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def stop(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(OSError, match="No space"):
        comparison_page.write(tmp_path, compare({"zoo/S": measured()}, "worst", DRAWS))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_publishing(found, tmp_path):
    """Page, table and plots go to docs, links hold there, and plots of models that are gone go."""
    source, docs = tmp_path / "out", tmp_path / "docs"
    source.mkdir()
    with pytest.raises(FileNotFoundError, match=r"comparison\.md"):
        publish(source, docs)
    comparison_page.write(source, found)
    (docs / "comparison").mkdir(parents=True)
    (docs / "comparison" / "zoo-XL-ttft.png").touch()
    written = publish(source, docs)
    assert sorted(written) == sorted(path for path in docs.rglob("*") if path.is_file())
    text = (docs / "comparison.md").read_text()
    assert text.startswith("# Comparison of methods\n\nWritten by ")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == 3
    assert all((docs / link).is_file() for link in links)
    assert text.split("## Verdict")[1] == (source / "comparison.md").read_text().split("## Verdict")[1]
