"""The evidence page says what the result files say, and the rule for layers chooses as it is written."""

import copy
import re

import pytest
from illava_lab.benchmarks.evidence import bigger, cards, claims, measure, page
from illava_lab.benchmarks.evidence.rows import MARGIN, both, candidates, control_rows, main_rows, pick

from illava.evaluation.compare import difference
from illava.evaluation.metrics import Estimate, resample
from illava.evaluation.rows import BLANK, PLAIN
from illava.evaluation.summary import summarise

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
def found(lines):
    settings = {
        "weights": "w",
        "illava": "0",
        "model": "zoo/L",
        "dtype": "float32",
        "device": "cpu",
        "split": "test",
        "seed": 0,
        "limit": 20,
        "batch_size": 4,
        "tasks": {"attribute": "", "video": ""},
        "rows": {row.label: row.to_dict() for row in ROWS},
    }
    test = summarise(settings, lines)
    test |= {"machine": measure.machine(), "differences": measure.differences(lines)}
    test["hurt"] = measure.hurt_kinds(lines)
    figures = {label: {"above_blank": 90.0, "flops": 0.4, "average": 0.3} for label in ("a", "b")}
    figures["dear"] = {"above_blank": 99.0, "flops": 0.9, "average": 0.3}
    chosen = {
        "weights": "w",
        "limit": 48,
        "tasks": ["attribute"],
        "rule": "The best wins.",
        "choice": CHOICE,
        "stages": {"encoder": {"figures": figures, "chosen": "b"}},
    }
    # The smaller model is worse, so that the two cannot be mixed up.
    worse = answers("attribute", {"plain": 2}) + answers("video", {"plain": 7})
    small = summarise({**settings, "model": "zoo/S"}, worse)
    small |= {"machine": measure.machine(), "differences": measure.differences(worse), "hurt": []}
    contest = [
        {
            "task": task,
            "sample": i,
            "row": label,
            "correct": i >= wrong,
            "cluster": str(i),
            "seconds": seconds,
        }
        for task in ("attribute", "video")
        for label, wrong, seconds in (("S plain", 14, 0.2), ("L plain", 2, 0.4), ("L merged to 1/9", 3, 0.1))
        for i in range(20)
    ]
    rows = bigger.results(contest, ["attribute"])
    return {
        "test-S": small,
        "test-L": test,
        "layers-S": copy.deepcopy(chosen),
        "layers-L": chosen,
        "bigger": {
            "weights": {"S": "w", "L": "w"},
            "each": 20,
            "tasks": ["attribute"],
            "contestants": rows,
            "all_tasks": bigger.results(contest, ["attribute", "video"]),
        },
        "speed": {
            "machine": {"cpu": "an abacus"},
            "rounds": 3,
            "size": 672,
            "dtype": "float32",
            "rows": [
                {
                    "name": "published schedule",
                    "kv_ratio": 0.5,
                    "measured": {
                        part: {"median": 2.0, "low": 1.5, "high": 2.5}
                        for part in ("encoder", "prefill", "ttft")
                    },
                }
            ],
        },
    }


def test_figures_of_the_page_are_those_of_the_answers(found):
    text = page.page(found)
    # attribute alone counts: plain is right 20 of 20 there, at 1/9 18 of 20; blank is right half the time.
    assert re.search(
        r"\| L \| 1/9 \| 16\.0 \| 90\.0 \([^)]*\) \| 80\.0 \([^)]*\) \| 95 \| short by 15 \|", text
    )
    spread = r"(?: \([^)]*\))?"
    assert re.search(rf"\| attribute \| 20 \| 50 % \| 90\.0{spread} \| 50\.0{spread} \| 100\.0", text)
    assert re.search(
        rf"\| video \| 20 \| 50 % \| 65\.0{spread} \* \| 50\.0{spread} \| 70\.0{spread} \* \|", text
    )
    assert re.search(r"\| L \| attribute \| 100\.0 \| -20\.0 \(", text)
    assert re.search(r"\| S \| attribute \| 90\.0 \| -10\.0 \(", text)
    assert "zoo/L has not learnt video well enough" in text
    assert "The best wins." in text
    assert "It does, at 1/9 of the tokens." in text
    assert "| **b** | 90.0 | 0.400 | 0.300 |" in text
    assert "| (dear) | 99.0 | 0.900 | 0.300 |" in text
    assert "published schedule: encoder 2.00 (1.50-2.50), prefill 2.00 (1.50-2.50)" in text
    assert "nan" not in text.lower()


def test_the_verdicts_follow_the_figures(found):
    changed = copy.deepcopy(found)
    rows = changed["bigger"]["contestants"]
    rows["L merged to 1/9"]["wins"] = "perhaps"
    assert "ahead in both at 1/9 of the tokens, but an interval" in page.page(changed)
    rows["L merged to 1/9"]["wins"] = "no"
    assert "It does not: no budget" in page.page(changed)
    text = page.page(found)
    assert (
        "Against drop: recycling is better in 1 of 4 cases, worse in 0, and not to be told apart in 3."
        in text
    )
    nothing = {"value": None, "low": None, "high": None}
    changed["test-L"]["differences"]["drop 1/9"]["mean"] = nothing
    assert "Against drop: recycling is better in 0 of 3 cases" in page.page(changed)


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ((96.0, 95.0, 97.0), "reached"),
        ((96.0, 94.0, 97.0), "reached, but the interval goes below"),
        ((96.0, None, None), "reached, but the interval goes below"),
        ((94.97, 94.0, 96.0), "short by 0.03"),
        ((None, None, None), "-"),
    ],
)
def test_targets_are_reached_or_not(figure, said):
    assert claims._reached(dict(zip(("value", "low", "high"), figure, strict=True)), 95.0) == said


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
    page.check(found)
    for path, value, message in (
        (("layers-L", "weights"), "v", "different weights of zoo/L"),
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


def test_cards_say_what_was_measured(found):
    log = [{"name": "dense-48", "step": 20, "seconds": 60}, {"name": "dense-48", "step": 400, "seconds": 600}]
    text = cards.card("L", found["test-L"], 4_200_000, log)
    assert "4.2 million weights" in text
    assert "in\n10 minutes" in text
    assert "`dense-48` (400 x 64 pictures)" in text
    assert "| attribute | 20 | 100.0" in text
    assert "| **mean** | | **85.0** | |" in text
    assert "not learnt well enough to say what merging costs: video." in text
