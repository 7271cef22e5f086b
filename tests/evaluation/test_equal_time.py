"""A comparison at equal time: rows, continued runs, and the page, against made-up times."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from illava import UnsupportedError
from illava.bench.timing import Timing
from illava.evaluation import comparison_page, equal_time, equal_time_page
from illava.evaluation.compared_methods import ComparedMethod
from illava.evaluation.comparison import compare
from illava.evaluation.equal_time import FILE_NAME, Budgets, rows_at, stopwatch, workload_of
from illava.evaluation.prompts import build_batch
from illava.io.pictures import InputError
from illava.methods import Illava, Method
from illava.models.located import locate
from illava.planning.equal_time import LEAST

from .conftest import Squares
from .made_up import DRAWS, measured
from .test_comparison_page import cells

IDENTITY = {"weights": "abc", "device": "cpu", "dtype": "float32", "clock": "the model"}
METHODS = [ComparedMethod(name, lambda keep: Illava(keep=keep)) for name in ("fast", "slow")]


class MadeUpClock:
    """The time of "illava" falls linearly to ``rest``."""

    def __init__(self, rest: float = 0.1) -> None:
        self.rest = rest

    def speedup(self, method: Method) -> float:
        return 1 / (self.rest + (1 - self.rest) * method.keep)


def never(method: Method) -> float:
    raise AssertionError("measured again")


# -- rows ------------------------------------------------------------------------------------------


def test_predicted_rows_by_hand(tmp_path):
    rows, refused = rows_at(METHODS[:1], [2, 4], MadeUpClock(), None, Budgets(tmp_path, IDENTITY))
    assert refused == {}
    assert [row.label for row in rows] == ["fast 2x", "fast 4x"]
    # 0.1 + 0.9 k = 1/2 and 1/4.
    assert [row.keep for row in rows] == pytest.approx([0.4 / 0.9, 0.15 / 0.9], rel=1e-4)
    assert [row.method for row in rows] == [Illava(keep=row.keep) for row in rows]
    assert [row.column for row in rows] == [2, 4]
    assert not any(row.ends for row in rows)


def test_a_method_that_ends_has_one_row(tmp_path):
    done: list[int] = []
    clock = MadeUpClock(0.6)
    rows, _ = rows_at(METHODS[:1], [4, 1.5, 3], clock, None, Budgets(tmp_path, IDENTITY), done.append)
    assert [row.label for row in rows] == ["fast 1.5x", "fast 1.6x (its most)"]
    assert (rows[1].keep, rows[1].column, rows[1].ends) == (LEAST, None, True)
    assert sum(done) == 3


def test_measured_rows_and_what_is_kept_of_them(tmp_path):
    """The model is slower than predicted; a continued run neither measures nor changes a budget."""
    runs: list[float] = []

    def measure(method: Method) -> float:
        runs.append(method.keep)
        return MadeUpClock(0.2).speedup(method)

    rows, _ = rows_at(METHODS[:1], [2, 3], MadeUpClock(), measure, Budgets(tmp_path, IDENTITY))
    assert [MadeUpClock(0.2).speedup(row.method) for row in rows] == pytest.approx([2, 3], rel=0.021)
    assert len(json.loads((tmp_path / FILE_NAME).read_text())["points"]) == len(runs)
    again = rows_at(METHODS[:1], [2, 3], MadeUpClock(0.4), never, Budgets(tmp_path, IDENTITY))
    assert again == (rows, {})
    # Without times, too; and more methods and targets only add rows.
    more, _ = rows_at(METHODS, [2, 3, 4], MadeUpClock(), None, Budgets(tmp_path, IDENTITY))
    assert [row.label for row in more][:3] == ["fast 2x", "fast 3x", "fast 4x"]
    assert more[:2] == rows


def test_stopped_while_measuring(tmp_path):
    """What was measured before serves; nothing else does."""

    def runs(stop: int | None):
        calls: list[float] = []

        def measure(method: Method) -> float:
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(method.keep)
            # Predicted wrongly by a power, so that several measurements are needed.
            return MadeUpClock(0.2).speedup(method) ** 0.7

        return measure, calls

    measure, whole = runs(None)
    rows, _ = rows_at(METHODS[:1], [2, 3], MadeUpClock(), measure, Budgets(tmp_path / "whole", IDENTITY))
    assert len(whole) > 2
    measure, before = runs(1)
    with pytest.raises(KeyboardInterrupt):
        rows_at(METHODS[:1], [2, 3], MadeUpClock(), measure, Budgets(tmp_path / "cut", IDENTITY))
    measure, after = runs(None)
    continued = rows_at(METHODS[:1], [2, 3], MadeUpClock(), measure, Budgets(tmp_path / "cut", IDENTITY))
    assert continued[0] == rows
    assert before + after == whole
    files = [json.loads((tmp_path / name / FILE_NAME).read_text()) for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_methods_that_the_clock_refuses(tmp_path):
    class Refusing(MadeUpClock):
        def speedup(self, method: Method) -> float:
            raise UnsupportedError("not on\nthis shape")

    rows, refused = rows_at(METHODS[:1], [2, 3], Refusing(), None, Budgets(tmp_path, IDENTITY))
    assert refused == {"fast 2x": "not on this shape", "fast 3x": "not on this shape"}
    assert [row.label for row in rows] == list(refused)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{", ["not a file of budgets", "give another --output"]),
        ('{"identity": {}}', ["not a file of budgets"]),
        (
            json.dumps(
                {"identity": {**IDENTITY, "clock": "qwen2-vl-2b"}, "points": [], "rows": {}, "rates": 1}
            ),
            ["clock qwen2-vl-2b there, the model here; give another --output"],
        ),
    ],
)
def test_files_that_do_not_fit(text, parts, tmp_path):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(InputError) as caught:
        Budgets(tmp_path, IDENTITY)
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)


# -- the model -------------------------------------------------------------------------------------


def test_workloads_are_those_of_the_prompts(loaded):
    """The length of a prompt is exact, and so are the units of images of one size."""
    model, processor = loaded
    modules = locate(model)
    for number in (0, 2):
        sample = Squares()[number]
        inputs, work = build_batch(processor, [sample]), workload_of(model, processor, sample)
        visual = sum((inputs["input_ids"] == token).sum().item() for token in tokens(modules))
        assert (work.visual_tokens, work.text) == (visual, inputs["input_ids"].shape[1] - visual)
        assert (
            sum(work.segments) * modules.group == next(v for k, v in inputs.items() if "pixel" in k).shape[0]
        )
    sample = Squares()[1]
    work = workload_of(model, processor, sample)
    assert len(work.segments) == 2
    assert work.text + work.visual_tokens == build_batch(processor, [sample])["input_ids"].shape[1]


def tokens(modules) -> tuple[int, int]:
    return modules.config.image_token_id, modules.config.video_token_id


def test_the_stopwatch_runs_both_and_takes_the_fastest(loaded, monkeypatch):
    model, processor = loaded
    seen: list[bool] = []

    def measure(which, inputs, count, **options):
        merged = any(hook for module in which.modules() for hook in module._forward_pre_hooks)
        seen.append(merged)
        # Every third run is disturbed.
        seconds = (0.5 if merged else 1.0) * (7.0 if len(seen) % 3 == 0 else 1.0)
        return Timing(0, 0, 0, seconds, seconds, 1, None)

    monkeypatch.setattr(equal_time, "measure", measure)
    speedup = stopwatch(model, processor, [Squares()[0], Squares()[2]])
    assert speedup(Illava(keep=1 / 3)) == 2
    # Twice as many pairs as prompts and turns, and one to warm up; as many plain runs as merged ones.
    assert len(seen) == 2 * (2 * equal_time.TURNS + 1)
    assert 2 * sum(seen) == len(seen)


# -- figures and page ------------------------------------------------------------------------------

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
