"""The evidence page says what the result files say, and the rule for layers chooses as it is written."""

import copy
import re

import pytest

from benchmarks.evidence import bigger, cards, measure, page
from benchmarks.evidence.rows import MARGIN, both, candidates, control_rows, main_rows, pick
from illava.evaluation.compare import difference
from illava.evaluation.metrics import resample
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
    chosen = {"limit": 48, "stages": {"encoder": {"figures": figures, "chosen": "b"}}}
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
        for label, wrong, seconds in (("S plain", 6, 0.2), ("L plain", 2, 0.4), ("L merged to 1/9", 3, 0.1))
        for i in range(20)
    ]
    rows = bigger.results(contest, ["attribute"])
    return {
        "test-S": test,
        "test-L": test,
        "layers-S": chosen,
        "layers-L": chosen,
        "bigger": {"each": 20, "contestants": rows},
        "speed": {
            "rounds": 3,
            "rows": [
                {
                    "method": "published schedule",
                    "kv_ratio": 0.5,
                    "measured": {part: {"median": 2.0} for part in ("encoder", "prefill", "ttft")},
                }
            ],
        },
    }


def test_figures_of_the_page_are_those_of_the_answers(found):
    text = page.page(found)
    # attribute alone counts: plain is right 20 of 20 there, at 1/9 18 of 20; blank is right half the time.
    assert re.search(
        r"\| L \| 1/9 \| 16\.0 \| 90\.0 \([^)]*\) \| 80\.0 \([^)]*\) \| 95 \| short by 15\.0 \|", text
    )
    assert "| attribute | 20 | 50 % | 100.0" in text
    assert re.search(r"\| video \| 20 \| 50 % \| 70\.0 \([^)]*\) \* \|", text)
    assert "| L | attribute | 100.0 | 80.0 | 20.0 |" in text
    assert "It does, at 1/9 of the tokens." in text
    assert "| **b** | 90.0 | 0.400 | 0.300 |" in text
    assert "published schedule: encoder 2.00x, prefill 2.00x, ttft 2.00x, KV bytes 0.500" in text


def test_the_verdict_follows_the_figures(found):
    slower = copy.deepcopy(found)
    for row in slower["bigger"]["contestants"].values():
        row["wins"] = False
    assert "It does not: no budget" in page.page(slower)
    better = page.page(found)
    assert (
        "Against drop: recycling is better in 2 of 4 cases, worse in 0, and not to be told apart in 2."
        in better
    )


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
    with pytest.raises(ValueError, match="no candidate for both"):
        pick("both", {"dear": {"above_blank": 1.0, "flops": 0.9, "average": 0.1}})


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
