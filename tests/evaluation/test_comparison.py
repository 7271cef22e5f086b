"""The figures of a comparison against figures by hand and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illava.evaluation import comparison, comparison_page, pareto
from illava.evaluation.compare import difference
from illava.evaluation.comparison import compare
from illava.evaluation.metrics import holm, resample, two_sided_p
from illava.evaluation.pareto import Point, front
from illava.evaluation.rows import TEXT_ONLY, merged_row
from illava.methods import Illava

from .made_up import DRAWS, REFUSED, ROWS, WRONG, answers, measured


@pytest.fixture(scope="module")
def found():
    return compare({"zoo/S": measured()}, "illava", DRAWS)


@pytest.fixture(scope="module")
def rows(found):
    return {row["label"]: row for row in found["models"]["zoo/S"]["rows"]}


# -- figures ---------------------------------------------------------------------------------------


def test_figures_by_hand(found, rows):
    tasks = found["models"]["zoo/S"]["tasks"]
    assert {name: task["in_mean"] for name, task in tasks.items()} == {"a": True, "b": True, "weak": False}
    assert list(rows) == ["plain", "blank", *(row.label for row in ROWS)]
    # a: 18 of 20, b: 16 of 20; plain 20 and 16; blank 10 and 4.
    assert rows["illava 1/3"]["accuracy"]["value"] == pytest.approx((90 + 80) / 2)
    assert rows["illava 1/3"]["retained"]["value"] == pytest.approx((90 / 100 + 80 / 80) * 50)
    assert rows["illava 1/3"]["above_blank"]["value"] == pytest.approx(100 * (85 - 35) / (90 - 35))
    assert rows["illava 1/3"]["tasks"] == pytest.approx({"a": 90, "b": 80, "weak": 55})
    assert rows["shuffled 1/3"]["difference"]["value"] == pytest.approx((95 + 80) / 2 - 85)
    assert rows["shuffled 1/9"]["difference"]["value"] == pytest.approx((40 + 40) / 2 - (70 + 60) / 2)
    assert rows["worst 1/3"]["difference"]["value"] == pytest.approx(40 - 85)
    assert rows["text only"]["accuracy"]["value"] == pytest.approx((50 + 10) / 2)
    assert rows["illava 1/9"]["ttft"] == pytest.approx({"value": 0.25, "low": 0.125, "high": 0.5})
    assert rows["illava 1/9"]["flops"] == pytest.approx(0.25)


def test_only_methods_at_a_budget_are_compared(found, rows):
    tested = {label for label, row in rows.items() if row["p"] is not None}
    assert tested == {"shuffled 1/3", "shuffled 1/9", "worst 1/3"}
    assert found["comparisons"]["made"] == 3
    # Refused on this model: nothing but the reason.
    assert rows["worst 1/9"]["refused"] == REFUSED["worst 1/9"]
    assert rows["worst 1/9"]["accuracy"]["value"] is rows["worst 1/9"]["flops"] is None


def test_missed_budgets_are_marked(rows):
    assert {label: row["off_budget"] for label, row in rows.items() if row["off_budget"] is not None} == {
        "illava 1/3": False,
        "illava 1/9": False,
        "shuffled 1/3": True,
        "shuffled 1/9": False,
        "worst 1/3": False,
    }


def loop_difference(lines, one, other, draws, n=20, seed=3):
    """The paired bootstrap, written out draw by draw, cluster by cluster and sample by sample."""
    statistics = []
    for task in ("a", "b"):
        right = {
            label: {
                line["sample"]: line["correct"]
                for line in lines
                if (line["task"], line["row"]) == (task, label)
            }
            for label in (one, other)
        }
        names = sorted({f"{task}-{i // 2}" for i in range(n)})
        weights = resample([f"{task}-{i // 2}" for i in range(n)], seed, task, draws).weights
        values = []
        for draw in weights.tolist():
            points, count = 0.0, 0.0
            for name, times in zip(names, draw, strict=True):
                for i in range(n):
                    if f"{task}-{i // 2}" == name:
                        points += times * (right[one][i] - right[other][i])
                        count += times
            values.append(100 * points / count)
        statistics.append(values)
    return [round((x + y) / 2, 9) for x, y in zip(*statistics, strict=True)]


@pytest.mark.parametrize("label", ["shuffled 1/3", "shuffled 1/9", "worst 1/3"])
def test_differences_against_loops(rows, label):
    other = f"illava {label.split()[1]}"
    points = loop_difference(answers(), label, other, DRAWS)
    draws = sorted(points[1:])
    low, high = np.quantile(draws, [0.025, 0.975])
    assert rows[label]["difference"] == pytest.approx({"value": points[0], "low": low, "high": high})
    rarer = min(sum(x <= 0 for x in draws), sum(x >= 0 for x in draws))
    assert rows[label]["p"] == pytest.approx(min(1, 2 * (1 + rarer) / (1 + DRAWS)))
    assert rows[label]["significant"] == (rows[label]["p"] < 0.05)


def test_differences_are_those_of_compare(rows):
    mean, _ = difference(answers(), ["shuffled 1/9"], ["illava 1/9"], seed=3, draws=DRAWS)
    assert rows["shuffled 1/9"]["difference"] == pytest.approx(mean.to_dict())


def test_budgets_may_be_missed_by_one_in_a_hundred():
    row = merged_row(Illava(keep=0.25), 0.25)
    tokens = {98: True, 99: False, 100: False, 101: False, 101.1: True}
    assert {final: comparison.off_budget(row, final, 400) for final in tokens} == tokens
    assert comparison.off_budget(TEXT_ONLY, 0, 0) is comparison.off_budget(ROWS[-1], 9, 99) is None


def test_schedules_are_at_no_budget():
    found = compare({"m": measured()}, "mine", DRAWS)
    assert found["comparisons"]["made"] == 0


def test_what_cancels_out_is_zero():
    """One more right in one task, one fewer in the other: sums in floating point leave a trace."""
    wrong = {task: dict(counts) for task, counts in WRONG.items()}
    wrong["a"]["illava 1/3"], wrong["b"]["illava 1/3"] = 6, 2
    wrong["a"]["shuffled 1/3"], wrong["b"]["shuffled 1/3"] = 5, 3
    lines = answers(wrong, 30)
    row = next(
        row
        for row in compare({"m": measured(lines)}, "illava", DRAWS)["models"]["m"]["rows"]
        if row["label"] == "shuffled 1/3"
    )
    assert np.mean([100 * (24 / 30), 100 * (28 / 30)]) != np.mean([100 * (25 / 30), 100 * (27 / 30)])
    assert row["difference"]["value"] == 0
    draws = loop_difference(lines, "shuffled 1/3", "illava 1/3", DRAWS, 30)[1:]
    rarer = min(sum(x <= 0 for x in draws), sum(x >= 0 for x in draws))
    assert row["p"] == pytest.approx(min(1, 2 * (1 + rarer) / (1 + DRAWS)))


def test_rows_that_answer_alike_are_level():
    lines = answers({task: counts | {"shuffled 1/3": counts["illava 1/3"]} for task, counts in WRONG.items()})
    found = compare({"m": measured(lines)}, "illava", DRAWS)
    row = next(row for row in found["models"]["m"]["rows"] if row["label"] == "shuffled 1/3")
    assert (row["difference"]["value"], row["p"], row["significant"], row["holds"]) == (0, 1, False, False)
    assert "**Equal or worse, not significantly:** m: shuffled 1/3 +0.0" in comparison_page.to_markdown(found)


def test_p_values_by_hand():
    draws = [3.0, -1.0, *[1.0] * 7, 0.0]
    assert two_sided_p(np.array([2.0, *draws])) == pytest.approx(2 * (1 + 2) / 11)
    assert two_sided_p(-np.array([2.0, *draws])) == pytest.approx(2 * (1 + 2) / 11)
    assert two_sided_p(np.zeros(11)) == 1
    assert two_sided_p(np.ones(11)) == pytest.approx(2 / 11)
    assert two_sided_p(np.array([1.0, math.nan])) is two_sided_p(np.array([1.0])) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.01, 0.99))
def test_holm_is_the_step_down_procedure(values, level):
    """Reject from the smallest up, until one is not below level / (those left)."""
    rejected: set[int] = set()
    left = set(range(len(values)))
    while left:
        smallest = min(left, key=lambda i: (values[i], i))
        if not values[smallest] * len(left) < level:
            break
        rejected.add(smallest)
        left.remove(smallest)
    assert {i for i, p in enumerate(holm(values)) if p < level} == rejected


def test_holm_covers_all_models():
    one = compare({"a": measured()}, "illava", DRAWS)
    two = compare({"a": measured(), "b": measured()}, "illava", DRAWS)
    assert two["comparisons"]["made"] == 6
    first, both = (figures["models"]["a"]["rows"] for figures in (one, two))
    smallest = min((row for row in first if row["p"] is not None), key=lambda row: row["p"])
    again = next(row for row in both if row["label"] == smallest["label"])
    assert again["p"] == smallest["p"]
    assert again["p_holm"] == pytest.approx(6 * smallest["p"])
    assert smallest["p_holm"] == pytest.approx(3 * smallest["p"])


# -- the front -------------------------------------------------------------------------------------


def test_fronts(found, rows):
    # 1/9 shuffled is the cheapest; 1/3 shuffled costs what 1/3 of illava costs and is better.
    assert found["models"]["zoo/S"]["fronts"] == {
        "ttft": ["shuffled 1/9", "illava 1/9", "shuffled 1/3", "plain"],
        "flops": ["shuffled 1/9", "illava 1/9", "shuffled 1/3", "plain"],
    }


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=9))
def test_front_against_loops(pairs):
    points = [Point(str(i), "m", float(cost), float(quality)) for i, (cost, quality) in enumerate(pairs)]
    expected = []
    for i, (cost, quality) in enumerate(pairs):
        beaten = False
        for other_cost, other_quality in pairs:
            cheaper, better = other_cost < cost, other_quality > quality
            beaten |= (cheaper and other_quality >= quality) or (better and other_cost <= cost)
        if not beaten:
            expected.append((cost, quality, str(i)))
    got = [(p.cost, p.quality, p.label) for p in front(points)]
    assert got == sorted(expected)


def test_every_method_looks_different():
    looks = [
        (pareto.COLOURS[i % len(pareto.COLOURS)], pareto.MARKERS[i % len(pareto.MARKERS)]) for i in range(66)
    ]
    assert len(set(looks)) == 66
