"""The evidence page says what the result files say, and the rule for layers chooses as it is written."""

import copy
import csv
import io

import pytest
from illava_lab.benchmarks.evidence import artefacts, bigger, cards, claims, measure, page
from illava_lab.benchmarks.evidence.rows import (
    BUDGETS,
    MARGIN,
    both,
    candidates,
    control_rows,
    main_rows,
    pick,
)

from illava.evaluation.compare import difference
from illava.evaluation.metrics import Estimate, resample
from illava.evaluation.rows import BLANK, PLAIN

CHOICE = {"encoder": [1, 2], "llm": [2, 3], "share": 0.5}
ROWS = [PLAIN, BLANK, *main_rows(CHOICE), *control_rows(CHOICE)]
HARMLESS = {
    "plain": 0,
    "both 1/3": 1,
    "both 1/9": 2,
    "drop 1/3": 2,
    "drop 1/9": 12,
}  # how many of 20 answers go wrong


def answers(task: str, wrong: dict[str, int], n: int = 20) -> list[dict]:
    return [
        {
            "task": task,
            "row": row.label,
            "sample": i,
            "question": f"Question {i}?",
            "answer": "yes",
            "prediction": "yes" if i >= wrong.get(row.label, 4) else "no",
            "correct": i >= wrong.get(row.label, 4) if row is not BLANK else i % 2 == 0,
            "agrees": True,
            "kl": 0.1,
            "visual_tokens": 144,
            "final_tokens": 16,
            "average_tokens": 40.0,
            "kv_bytes": 0.3,
            "flops": 0.4,
            "cluster": f"{task}-{i}",
            "kind": "small things" if i < 12 else "large things",
            "small": i % 2 == 0,
        }
        for row in ROWS
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def lines():
    return answers("attribute", HARMLESS) + answers("video", HARMLESS | {"both 1/9": 6, "plain": 6})


@pytest.fixture(scope="module")
def found():
    return page.read()


def test_everything_is_up_to_date(found):
    """The page, the tables beside it, and the model cards."""
    assert page.PAGE.read_text() == page.page(found)
    for name, text in artefacts.tables(found).items():
        assert (page.FIGURES / name).read_text() == text
    for size in page.SIZES:
        assert (page.FIGURES / artefacts.plot(size)).is_file()
        assert cards.path(size).read_text() == cards.read(size, found[f"test-{size}"])


def test_tables_hold_every_row(found):
    rows = list(csv.DictReader(io.StringIO(artefacts.tables(found)["rows.csv"])))
    for size in page.SIZES:
        summary = found[f"test-{size}"]
        mine = [row for row in rows if row["model"] == f"zoo/{size}"]
        assert len(mine) == len(summary["mean"]) * (1 + len(summary["tasks"]))
        for row in (row for row in mine if row["task"] == "mean"):
            figures = summary["mean"][row["row"]]
            assert float(row["accuracy"]) == figures["accuracy"]["value"]
            assert float(row["above_blank_high"]) == figures["above_blank"]["high"]
            assert float(row["kv_bytes"]) == figures["kv_bytes"]


def test_figures_of_the_page_are_those_of_the_tables(found):
    kept = {
        (row["model"], row["row"]): f"{float(row['above_blank']):.1f}"
        for row in csv.DictReader((page.FIGURES / "rows.csv").open(newline=""))
        if row["task"] == "mean"
    }
    lines = [line.strip("| ").split(" | ") for line in page.PAGE.read_text().splitlines()]
    shown = {tuple(cells[0].split(", ")): cells[1:] for cells in lines if cells[0].startswith("zoo/")}
    for size in page.SIZES:
        for budget in BUDGETS:
            rows = (f"{stage} {budget}" for stage in ("both", "encoder", "llm", "published pattern"))
            assert shown[f"zoo/{size}", budget] == [kept[f"zoo/{size}", row] for row in rows]
        tasks = found[f"test-{size}"]["tasks"].values()
        mean = sum(task["rows"]["plain"]["accuracy"]["value"] for task in tasks) / len(tasks)
        assert f"| **mean** | | **{mean:.1f}** | |" in cards.path(size).read_text()


def verdicts(found) -> dict[str, str]:
    """The last cells of the table of claims, by claim."""
    rows = [line.strip("| ").split(" | ") for line in claims.section(found) if line.startswith("| ")]
    return {row[0]: row[-1] for row in rows[2:]}


BIGGER = "a larger model merged is more accurate and faster than a smaller one plain"
NINTH = "95 % of the accuracy stays at 1/9"


def test_the_verdicts_follow_the_figures(found):
    changed = copy.deepcopy(found)
    for name in ("speed", "throughput"):
        for row in changed[name].get("rows", []) + changed[name].get("variants", []):
            row["kv_ratio"] = (
                0.5 if row["name" if name == "speed" else "label"] == "to 1/3, then 0.9 x4" else 0.9
            )
            for figures in (row.get("faster"), row.get("measured")):
                for figure in (figures or {}).values():
                    figure["median"] = 1.9
    changed["bigger"]["contestants"]["L merged to 1/9"]["wins"] = "yes"
    for size, low in (("S", 95.5), ("L", 94.0)):
        summary = changed[f"test-{size}"]
        summary["mean"]["both 1/9"]["above_blank"] = {"value": 96.0, "low": low, "high": 97.0}
        apart = summary["differences"]["published schedule"]
        apart["mean"]["value"] = -0.3
        apart["tasks"]["video"]["value"] = 6.0
    before, after = verdicts(found), verdicts(changed)
    assert after["throughput up to 2x"] == after["prefill up to 4x faster"] == "**not confirmed**"
    assert after["KV cache 1.7x to 2x smaller"] == "confirmed, only by harder schedules"
    assert (before[BIGGER], after[BIGGER]) == ("**not confirmed**", "confirmed, at 1/9")
    assert after[NINTH] == "confirmed, reached and reached, but the interval goes below"
    assert after["the published schedules lose 0.2 to 0.5 points"] == "confirmed"
    assert after["video loses least"] == "confirmed"
    assert "Of 8 claims 5 are confirmed and 3 are not:" in claims.section(changed)
    # An advantage that is not significant confirms nothing.
    changed["bigger"]["contestants"]["L merged to 1/9"]["wins"] = "perhaps"
    assert verdicts(changed)[BIGGER] == "**not confirmed**, ahead at 1/9, not significantly"
    # Nor does a task that was not learnt.
    for size in page.SIZES:
        changed[f"test-{size}"]["tasks"]["video"]["in_mean"] = False
    assert verdicts(changed)["video loses least"] == "not measured"


def test_significant_cases_are_counted():
    apart = [
        {"value": 0, "low": low, "high": high} for low, high in ((1, 2), (-1, 2), (-2, -1), (None, None))
    ]
    assert page.cases(apart) == "1 of 3, behind in 1"
    assert page.cases(apart[:2]) == "1 of 2"


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ((96.0, 95.0, 97.0), "reached"),
        ((96.0, None, None), "reached, but the interval goes below"),
        ((94.97, 94.0, 96.0), "short by 0.03"),
        ((None, None, None), "-"),
    ],
)
def test_targets_are_reached_or_not(figure, said):
    assert claims.reached(dict(zip(("value", "low", "high"), figure, strict=True)), 95.0) == said


@pytest.mark.parametrize(
    ("points", "faster", "wins"),
    [
        ((5, 1, 9), (2, 1.5, 3), "yes"),
        ((5, 0, 9), (2, 1.5, 3), "perhaps"),
        ((5, 1, 9), (1.1, 0.9, 3), "perhaps"),
        ((-1, -2, 0), (2, 1.5, 3), "no"),
        ((5, 1, 9), (0.9, 0.8, 1.0), "no"),
    ],
)
def test_winning_takes_both_and_certainty(points, faster, wins):
    assert bigger._wins(Estimate(*points), Estimate(*faster)) == wins


def test_files_that_do_not_belong_together_are_refused(found):
    for path, value, message in (
        (("layers-L", "weights"), "v", "different weights of zoo/L"),
        (("comparison", "models", "zoo/L", "settings", "weights"), "v", "different weights of zoo/L"),
        (("bigger", "weights", "S"), "v", "different weights of zoo/S"),
        (("layers-S", "choice", "encoder"), [3], "not measured at the layers of layers-S"),
        (("test-S", "settings", "limit"), 5, "differ in limit"),
    ):
        changed = copy.deepcopy(found)
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(ValueError, match=message):
            page.check(changed)


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "FIGURES", tmp_path)
    with pytest.raises(SystemExit, match=r"layers-S.json is missing"):
        page.main()


def test_differences_are_paired_and_leave_bad_tasks_out(lines):
    mean, by_task = difference(lines, ["both 1/9"], ["drop 1/9"])
    assert mean.value == pytest.approx(100 * (18 - 8) / 20)
    assert by_task["video"].value == pytest.approx(100 * (14 - 8) / 20)
    # The same draws by hand: rows differ in samples 2 to 11.
    drawn = resample([f"attribute-{i}" for i in range(20)], 0, "attribute")
    draws = sorted(100 * drawn.mean([float(2 <= i < 12) for i in range(20)])[1:])
    assert mean.low == pytest.approx(draws[50], abs=0.3)
    both_ways = difference(lines, ["both 1/9", "both 1/3"], ["drop 1/9"])[0]
    assert both_ways.value == pytest.approx(100 * (18.5 - 8) / 20)


def test_kinds_are_ordered_by_what_they_lose(lines):
    worst = measure.hurt_kinds(lines)
    assert (worst[0]["task"], worst[0]["kind"]) == ("attribute", "small things")
    assert worst[0]["lost"] == pytest.approx(100 * 2 / 12)
    assert [example["sample"] for example in worst[0]["examples"]] == [0, 1]
    assert all(entry["samples"] >= 10 for entry in worst)


def test_the_rule_picks_the_best_allowed_and_the_cheapest_of_equals():
    figures = {
        "good but dear": {"above_blank": 99.0, "flops": 0.6, "average": 0.2},
        "best": {"above_blank": 95.0, "flops": 0.5, "average": 0.6},
        "as good, cheaper": {"above_blank": 95.0 - MARGIN, "flops": 0.3, "average": 0.6},
        "cheapest": {"above_blank": 80.0, "flops": 0.2, "average": 0.4},
    }
    assert pick("encoder", figures) == pick("both", figures) == "as good, cheaper"
    assert pick("llm", figures) == "good but dear"
    # Where none is cheap enough the cheapest wins.
    dear = {
        "a": {"above_blank": 9.0, "flops": 0.9, "average": 1},
        "b": {"above_blank": 1.0, "flops": 0.8, "average": 1},
    }
    assert pick("both", dear) == "b"


def test_candidates_and_rows_keep_to_their_budget():
    for stage in ("encoder", "llm", "both"):
        for label, (chosen, method) in candidates(stage, CHOICE).items():
            assert label.split()[0] in ("encoder", "llm", "share")
            assert set(chosen) == {"share" if stage == "both" else stage}
            assert method.reduce == "recycle"
    split = both(1 / 9, CHOICE)
    assert split.encoder_keep**2 * split.llm_keep**2 == pytest.approx(1 / 9)
    assert split.encoder_keep**2 == pytest.approx(1 / 3)
    labels = [row.label for row in ROWS]
    assert len(labels) == len(set(labels)) == 27
