"""A comparison at equal time: rows, continued runs, and the page, against made-up times."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from torch import nn

from illava import UnsupportedError
from illava.bench.published import config as published
from illava.bench.timing import Timing
from illava.evaluation import equal_time
from illava.evaluation.compared_methods import PLANNED, ComparedMethod, comparison_rows, find
from illava.evaluation.equal_time import FILE_NAME, Budgets, identity, rows_at, stopwatch, workload_of
from illava.evaluation.prompts import build_batch
from illava.io.pictures import InputError
from illava.methods import Illava, Method
from illava.models.layout import workload
from illava.models.located import locate
from illava.planning.clock import Clock
from illava.planning.equal_time import LEAST
from illava.planning.machine_speed import Rates
from illava.planning.placements import method_at
from illava.planning.plan import plan_on
from illava.planning.predict import skeleton
from tests.tiny import config

from .conftest import Squares

IDENTITY = {"weights": "abc", "device": "cpu", "dtype": "float32", "clock": "the model"}
METHODS = [ComparedMethod(name, lambda keep: Illava(keep=keep)) for name in ("fast", "slow")]


class MadeUpClock:
    """The time of "illava" falls linearly to ``rest``."""

    def __init__(self, rest: float = 0.1) -> None:
        self.rest = rest

    def speedup(self, method: Method) -> float:
        return 1 / (self.rest + (1 - self.rest) * method.keep)

    def planned(self, speedup: float) -> Callable[[float], Method]:
        return lambda keep: Illava(keep=keep, encoder_layers=(round(speedup),))


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


def test_the_planner_chooses_layers_for_each_speedup(tmp_path):
    planned = find([PLANNED])
    rows, refused = rows_at(planned, [2, 4], MadeUpClock(), None, Budgets(tmp_path, IDENTITY))
    assert refused == {}
    assert [row.label for row in rows] == [f"{PLANNED} 2x", f"{PLANNED} 4x"]
    assert [row.method.encoder_layers for row in rows] == [(2,), (4,)]
    assert [row.keep for row in rows] == pytest.approx([0.4 / 0.9, 0.15 / 0.9], rel=1e-4)
    with pytest.raises(InputError, match="illava-planned needs --speedup"):
        comparison_rows([PLANNED], [1 / 3])


def test_a_clock_plans_on_its_own_shape_for_the_model_that_answers():
    """The same relative depths and shares as the plan for the shape; the budget is left open."""
    there, here = skeleton(published("qwen2-vl-2b")), skeleton(config("llava"))
    linear = tuple((n, n * 1e-6) for n in (1, 10, 100, 1000, 10000))
    square = tuple((n, n * n * 1e-9) for n in (1, 10, 100, 1000, 10000))
    rates = Rates(linear, linear, square, linear, linear, linear, square, linear, ((1, 0.0),))
    work = workload(there)
    wanted = plan_on(there, work, {"speedup": 3}, rates, smaller_picture=False).chosen
    found = Clock(there, [work], rates, planned_on=here).planned(3)(1 / 5)
    assert found == method_at(here, 1 / 5, wanted.placement)
    alone = plan_on(there, work, {"speedup": 3}, rates)
    assert Clock(there, [work], rates).planned(3)(alone.method.keep) == alone.method


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


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"version": "9.9"}, "illava 9.9 there, "),
        ({"prompts": 6}, "prompts 6 there, 3 here"),
        ({"weights": "def"}, "weights def there, abc here"),
        ({"measured": False}, "budgets predicted there, measured here"),
    ],
)
def test_budgets_of_another_version_or_of_other_prompts(changed, part, tmp_path, monkeypatch):
    def known(weights="abc", prompts=3, measured=True, version=None):
        with monkeypatch.context() as patched:
            if version is not None:
                patched.setattr(equal_time, "__version__", version)
            return identity(nn.Linear(1, 1), weights, "the model", prompts, measured=measured)

    Budgets(tmp_path, known(**changed)).save_rates({})
    Budgets(tmp_path, known(**changed))
    with pytest.raises(InputError) as caught:
        Budgets(tmp_path, known())
    assert part in str(caught.value)
    assert str(caught.value).endswith("; give another --output")


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
