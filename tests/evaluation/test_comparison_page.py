"""What is written of a comparison: the verdict, the tables, the plots, and the published page."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
from illava_lab.benchmarks import comparison as published

from illava.evaluation import comparison, comparison_page, verdict
from illava.evaluation.comparison import compare
from illava.io.plots import HINT

from .made_up import DRAWS, WRONG, answers, measured

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def found():
    return compare({"zoo/S": measured()}, "illava", DRAWS)


def statements(figures) -> dict[str, str]:
    """The bullets of the verdict by their titles."""
    return dict(re.findall(r"^- \*\*(.+?):\*\* (.+)$", comparison_page.to_markdown(figures), re.MULTILINE))


def cells(text: str) -> dict[str, list[str]]:
    """The rows of all tables of a page by their first cells."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_the_verdict_follows_the_figures(found):
    said = statements(found)
    assert said["Better, significantly"] == "none."
    assert said["Better, not significantly"] == "zoo/S: shuffled 1/3 +2.5."
    assert said["Worse, significantly"] == "zoo/S: 1 of 3 rows."
    assert said["Pareto front, FLOPs up to the first token / plain"].endswith(
        "(1 of 2 rows of the reference)."
    )
    assert said["Multiple testing"].startswith("3 comparisons, about 0.2 of them")
    assert list(said)[:2] == ["Better, significantly", "Better, not significantly"]
    # With another reference it turns round.
    turned = statements(compare({"zoo/S": measured()}, "worst", DRAWS))
    assert re.match(
        r"zoo/S: shuffled 1/3 \+47\.5 \(.*\) .*, illava 1/3 \+45\.0 \(", turned["Better, significantly"]
    )
    assert turned["Worse, significantly"] == "none."
    # Tasks that are not in the means are named, too; the reference has no row at 1/9.
    tasks = "Tasks with a better method, means over budgets, not tested"
    assert said[tasks] == "none."
    assert turned[tasks] == "zoo/S: a (shuffled +55.0), b (illava +40.0), weak (illava +15.0)."


def test_long_lists_are_cut(monkeypatch):
    found = compare({"zoo/S": measured()}, "worst", DRAWS)
    monkeypatch.setattr(verdict, "MOST_LISTED", 1)
    assert statements(found)["Better, significantly"].endswith(", 1 more.")
    monkeypatch.setattr(comparison_page, "MOST_METHODS", 1)
    text = comparison_page.to_markdown(found)
    assert {"illava", "worst"} <= set(cells(text)), "the best one, and the reference anyway"
    assert "3 more methods are in `comparison.csv`." in text


def test_marks_follow_the_tests(found):
    row = next(r for r in found["models"]["zoo/S"]["rows"] if r["label"] == "worst 1/3")
    for significant, holds, mark in ((True, True, " \\*\\*"), (True, False, " \\*"), (False, False, "")):
        text = verdict.difference({**row, "significant": significant, "holds": holds})
        assert text.split(")")[1] == mark


def test_tables(found):
    text = comparison_page.to_markdown(found)
    rows = cells(text)
    kept = {row["label"]: row["above_blank"]["value"] for row in found["models"]["zoo/S"]["rows"]}
    assert rows["method"][:4] == ["1/3", "1/9", "own schedule", "FLOPs"]
    assert rows["illava"][:2] == [f"{kept[label]:.1f}" for label in ("illava 1/3", "illava 1/9")]
    assert rows["illava"][3:] == ["0.25-0.50"] * 4
    assert rows["shuffled"][0] == f"{kept['shuffled 1/3']:.1f} \u2020", "49 tokens for a budget of 48"
    assert rows["worst"][:2] == ["9.1 \\*\\*", "not run"]
    assert rows["worst 1/9"] == ["not with a \\| in it"]
    # Of 20 answers of illava 18 and 14 are right in task a, of shuffled 19 and 8.
    assert rows["a"] == ["100.0", "80.0", "67.5 (shuffled)"]
    assert rows["weak \\*"] == ["55.0", "55.0", "20.0 (shuffled)"]
    assert "nan" not in text.lower()


def test_csv_agrees_with_json(found, tmp_path):
    assert comparison_page.write(tmp_path, found) is None
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert kept == json.loads(json.dumps(found, allow_nan=False))
    table = list(csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text(), newline="")))
    rows = [(model, row) for model, figures in kept["models"].items() for row in figures["rows"]]
    assert len(table) == len(rows)
    for line, (model, row) in zip(table, rows, strict=True):
        assert (line.pop("model"), line.pop("row"), line["method"]) == (model, row["label"], row["method"])
        for key, cell in line.items():
            name, _, end = key.rpartition("_")
            if key.startswith("accuracy: "):
                value = row["tasks"].get(key.removeprefix("accuracy: "))
            elif end in ("low", "high"):
                value = row[name][end]
            else:
                value = row[key]["value"] if isinstance(row[key], dict) else row[key]
            if value is None or value == "":
                assert cell == ""
            elif isinstance(value, bool | str):
                assert cell == str(value)
            else:
                assert float(cell) == value
    wanted = {
        "accuracy_low",
        "above_blank_high",
        "ttft",
        "difference",
        "p_holm",
        "final_tokens",
        "accuracy: weak",
    }
    assert wanted <= set(table[0])


def test_plots(found, tmp_path, monkeypatch):
    assert comparison_page.write(tmp_path, found) is None
    text = (tmp_path / "comparison.md").read_text()
    for cost in comparison.COSTS:
        name = f"comparison/zoo-S-{cost}.png"
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert text.split(f"]({name})")[0].split("![")[-1].startswith("zoo/S: retained above blank")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert comparison_page.write(tmp_path / "no", found) == HINT
    assert "![" not in (tmp_path / "no" / "comparison.md").read_text()


def test_without_times_and_without_tasks_that_count(tmp_path):
    untimed = compare({"m": measured(timing=False)}, "illava", DRAWS)
    assert untimed["models"]["m"]["fronts"]["ttft"] == []
    assert (
        statements(untimed)["Pareto front, time to the first token / plain, measured"] == "m: not measured."
    )
    lines = answers({task: counts | {"plain": 9} for task, counts in WRONG.items()})
    found = compare({"m": measured(lines)}, "illava", DRAWS)
    assert comparison_page.write(tmp_path, found) is None
    said = statements(found)
    assert said["No result for m"] == "plain is below 75 % at every task."
    assert said["Multiple testing"].startswith("0 comparisons")
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


def test_publishing(found, tmp_path, monkeypatch):
    """Page, figures and plots go to docs, links hold there, and a second time nothing changes."""
    source, docs = tmp_path / "out", tmp_path / "docs"
    source.mkdir()
    with pytest.raises(FileNotFoundError, match=r"comparison\.json"):
        published.publish(source, docs)
    comparison_page.write(source, found)
    (docs / "comparison").mkdir(parents=True)
    (docs / "comparison" / "zoo-XL-ttft.png").touch()
    written = published.publish(source, docs)
    assert sorted(written) == sorted(path for path in docs.rglob("*") if path.is_file())
    text = (docs / "comparison.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == 4
    assert all((docs / link).is_file() for link in links)
    assert text.split("Mean accuracy")[1] == (source / "comparison.md").read_text().split("Mean accuracy")[1]
    before = {path: path.read_bytes() for path in written}
    assert published.publish(docs / "comparison", docs) == written
    assert {path: path.read_bytes() for path in written} == before
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="matplotlib is not installed"):
        published.publish(source, docs)


def test_the_published_page_is_up_to_date():
    folder = DOCS / "comparison"
    found = json.loads((folder / "comparison.json").read_text())
    plots = [path.name for path in folder.glob("*.png")]
    assert published.page(found, DOCS, plots) == (DOCS / "comparison.md").read_text()
    assert comparison_page.to_csv(found) == (folder / "comparison.csv").read_text()
    assert sorted(plots) == sorted(
        comparison_page.plot_name(model, cost) for model in found["models"] for cost in comparison.COSTS
    )
