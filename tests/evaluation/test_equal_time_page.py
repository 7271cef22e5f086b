"""What is said of figures at equal time."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from illava.evaluation import comparison_page, equal_time_page
from illava.evaluation.comparison import compare

from .made_up import DRAWS, measured
from .test_comparison_page import cells

TARGETS = {1 / 3: 2.0, 1 / 9: 4.0}


def at_equal_time(clock: str | None = None):
    """The made-up comparison, whose budgets of 1/3 and 1/9 are taken for 2x and 4x."""
    plain = measured()
    rows = [
        row
        if row.method is None or row.keep is None
        else replace(row, target=TARGETS[row.keep], expected=1.01 * TARGETS[row.keep])
        for row in plain.rows
    ]
    # The last row of "worst" that runs: it ends there.
    rows = [replace(row, ends=True, expected=1.7) if row.label == "worst 1/3" else row for row in rows]
    groups = {"a": "text", "b": "where", "weak": "text"}
    return replace(plain, rows=rows, groups=groups, clock=clock, targets=(2.0, 4.0))


@pytest.fixture(scope="module")
def found():
    return compare({"zoo/S": at_equal_time()}, "illava", DRAWS)


def test_figures_by_hand(found):
    rows = {row["label"]: row for row in found["models"]["zoo/S"]["rows"]}
    # Paired by target; what ends earlier is paired with nothing.
    assert {label for label, row in rows.items() if row["p"] is not None} == {"shuffled 1/3", "shuffled 1/9"}
    # Measured 2x, 4x, 2x and 5x.
    missed = {label: row["missed"] for label, row in rows.items() if row["missed"] is not None}
    assert missed == {"illava 1/3": False, "illava 1/9": False, "shuffled 1/3": False, "shuffled 1/9": True}
    # Of 20: plain 20, blank 10, illava 18; plain 16, blank 4, illava 16. "weak" is not counted.
    kept = {group: figure["value"] for group, figure in rows["illava 1/3"]["groups"].items()}
    assert kept == pytest.approx({"text": 80.0, "where": 100.0})
    assert rows["shuffled 1/3"]["groups"]["text"]["value"] == pytest.approx(90.0)
    assert all(row["off_budget"] is None for row in rows.values() if row["target"])


def test_the_best_is_named_first_whichever_it_is(found):
    lines = comparison_page.to_markdown(found).splitlines()
    bullets = [line for line in lines if line.startswith("- **")]
    assert bullets[0].startswith("- **Best at 2x, zoo/S:** shuffled 95.5 (")
    assert "; text tasks: shuffled 90.0 (" in bullets[0]
    assert "; position tasks: shuffled and illava 100.0 (" in bullets[0]
    # "shuffled" is measured at 5x instead of 4x: that is no advantage.
    assert bullets[1].startswith("- **Best at 4x, zoo/S:** illava ")
    assert "too slow" not in bullets[1]
    assert "at the same time to the first token:" in "\n".join(lines)


def test_what_is_too_slow_cannot_be_the_best():
    made = at_equal_time()
    made.timing["rows"]["shuffled 1/3"]["faster"]["ttft"]["median"] = 1.8
    (first, *_) = equal_time_page.best(compare({"zoo/S": made}, "illava", DRAWS))[2:]
    assert first.startswith("- **Best at 2x, zoo/S:** illava 90.9 (")
    assert first.endswith(" (too slow to count: shuffled).")


def test_tables_by_target(found):
    text = comparison_page.to_markdown(found)
    two, rest = text.split("### 2x to the first token")[1].split("### 4x to the first token")
    four, rest = rest.split("### Where methods end")
    ends, saved = rest.split("### Schedules of their own")
    assert list(cells(two)) == ["method", "---", "shuffled", "illava"], "the best first"
    assert cells(two)["method"] == [
        "all tasks",
        "text tasks",
        "position tasks",
        "points against illava",
        "first token, measured",
        "budget",
    ]
    assert cells(two)["shuffled"][3].startswith("+2.5 (")
    # A share of 0.5 (0.25 to 1) of the plain model's time.
    assert cells(two)["illava"][3:] == ["-", "2.00x (1.00-4.00)", "0.333"]
    assert cells(four)["shuffled"][4] == "5.00x (2.50-10.00) \u2021"
    assert list(cells(ends))[2:] == ["worst"]
    assert "At 1/64 of the tokens" in ends
    assert {"mine", "yours"} <= set(cells(saved))
    assert cells(saved)["worst 1/9"] == ["not with a \\| in it"]
    assert "nan" not in text.lower()


def test_targets_that_nothing_reaches():
    made = replace(at_equal_time(), targets=(2.0, 4.0, 9.0))
    text = comparison_page.to_markdown(compare({"zoo/S": made}, "illava", DRAWS))
    assert "**Best at 9x, zoo/S:** none." in text
    assert "### 9x to the first token\n\nNo method gets there." in text


def test_another_clock_decides():
    found = compare({"zoo/S": at_equal_time("qwen2-vl-2b")}, "illava", DRAWS)
    rows = {row["label"]: row for row in found["models"]["zoo/S"]["rows"]}
    # 1 % off, whatever is measured here.
    assert rows["shuffled 1/9"]["missed"] is False
    text = comparison_page.to_markdown(found)
    assert "### 4x to the first token, as predicted on qwen2-vl-2b" in text
    four = text.split("### 4x to the first token")[1].split("###")[0]
    assert cells(four)["method"][-3:] == ["qwen2-vl-2b, predicted", "first token, measured", "budget"]
    assert cells(four)["shuffled"][-3:-1] == ["4.04x", "5.00x (2.50-10.00)"]
    assert "clock" in found["models"]["zoo/S"]["fronts"]
    points = comparison_page.points_of(found["models"]["zoo/S"]["rows"], "clock")
    assert {point.label: point.cost for point in points}["illava 1/9"] == pytest.approx(1 / 4.04)
    assert points[0] == replace(points[0], label="plain", cost=1.0)


def test_written_files(found, tmp_path):
    comparison_page.write(tmp_path, found)
    head = (tmp_path / "comparison.csv").read_text().splitlines()[0].split(",")
    assert {"target", "ends", "expected", "missed", "above_blank: text tasks"} <= set(head)
    assert json.loads((tmp_path / "comparison.json").read_text())["targets"] == [2.0, 4.0]
