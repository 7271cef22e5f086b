"""``illava compare --speedup`` as its user meets it."""

from __future__ import annotations

import json

import pytest
import torch
from illava_lab import tasks

from illava.evaluation import compared_methods, equal_time, summary
from illava.evaluation.store import ANSWERS
from illava.methods import FastV, Illava, base
from illava.models.located import locate
from illava.planning import clock
from illava.planning.machine_speed import Rates

from ..cli.conftest import assert_error, invoke
from .conftest import Squares

LINEAR = tuple((n, n * 1e-6) for n in (1, 10, 100, 1000, 10000))
RATES = Rates(LINEAR, LINEAR, LINEAR, LINEAR, LINEAR, LINEAR, LINEAR, LINEAR, ((1, 0.0),))
"""Without constant parts, so that all speed-ups up to the depth of a step can be reached."""


@pytest.fixture(autouse=True)
def squares(monkeypatch):
    """Tasks that any model is good enough at; two methods; a machine of known speed."""
    monkeypatch.setattr(tasks, "names", lambda: ("squares",))
    monkeypatch.setattr(tasks, "load", lambda name, split="test", seed=0: Squares(name))
    monkeypatch.setattr(summary, "LEAST_PLAIN", 0.0)
    monkeypatch.setattr(base, "_METHODS", {"illava": Illava, "fastv": FastV})
    monkeypatch.setattr(compared_methods, "presets", dict)
    monkeypatch.setattr(clock, "rates_on", lambda *args, **options: RATES)


def words(out, *more: object) -> list[object]:
    return [
        *("compare", "--output", out, "--model", "zoo/S", "--tasks", "squares"),
        *("--limit", 4, "--batch-size", 2, "--max-new-tokens", 2, *more),
    ]


def rows_of(out) -> dict[str, dict]:
    figures = json.loads((out / "comparison.json").read_text())
    return {row["label"]: row for row in figures["models"]["zoo/S"]["rows"]}


def test_predicted_and_continued(tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = words(out, "--method", "illava", "fastv", "--speedup", "1.3", "4x", "--time", 0)
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    rows = rows_of(out)
    assert {"plain", "blank", "text only", "illava 1.3x"} <= set(rows)
    # FastV leaves the encoder as it is: it ends, and has one row for that.
    ends = [row for row in rows.values() if row["ends"]]
    assert "fastv" in {row["method"] for row in ends}
    assert all(row["keep"] == 1 / 64 for row in ends)
    kept = json.loads((out / "zoo-S" / "budgets.json").read_text())
    assert kept["points"] == []
    assert kept["rows"]["illava"]["1.3"]["speedup"] == pytest.approx(1.3, rel=0.05)
    # Again, on a machine of another speed: the same rows, and no new answer.
    before = (out / "zoo-S" / ANSWERS).read_bytes()
    monkeypatch.setattr(clock, "rates_on", None)
    assert invoke(*command).exit_code == 0
    assert {label: row["keep"] for label, row in rows_of(out).items()} == {
        label: row["keep"] for label, row in rows.items()
    }
    assert (out / "zoo-S" / ANSWERS).read_bytes() == before
    # With the budgets lost, another one is not mixed with the answers of the old one.
    row = kept["rows"]["illava"]["1.3"]
    row["keep"] = row["method"]["keep"] = 0.5
    (out / "zoo-S" / "budgets.json").write_text(json.dumps(kept))
    assert_error(invoke(*command), "other settings", "row illava 1.3x", '"keep": 0.5')
    clocked = invoke(*command, "--clock", "internvl2.5-1b")
    assert_error(clocked, "clock the model there, internvl2.5-1b here; give another --output")


def test_measured(tmp_path, monkeypatch):
    """The measurements decide, and the page has the times of the run itself."""
    measures = []

    def stopwatch(model, processor, samples):
        """A machine on which merging saves half as much time again as predicted, down to whole tokens."""
        prompts = [equal_time.workload_of(model, processor, sample) for sample in samples]
        predicted = clock.Clock(locate(model), prompts, RATES)
        measures.append(lambda method: 1 / (1.5 / predicted.speedup(method) - 0.5))
        return measures[-1]

    monkeypatch.setattr(equal_time, "stopwatch", stopwatch)
    out = tmp_path / "out"
    result = invoke(*words(out, "--method", "illava", "--speedup", 2, 3, "--time", 1))
    assert result.exit_code == 0, result.output
    rows = rows_of(out)
    for target in (2, 3):
        row = rows[f"illava {target}x"]
        # One token more or less is up to 7 % of the time here.
        assert measures[0](Illava(keep=row["keep"])) == pytest.approx(target, rel=0.035)
        assert row["ttft"]["value"] > 0
        assert row["missed"] == (abs(1 / row["ttft"]["value"] / target - 1) > 0.05)
    assert "### 3x to the first token" in (out / "comparison.md").read_text()
    assert "the fastest of 3 runs of each" in (out / "comparison.md").read_text()


def test_times_in_another_dtype_than_answers(tmp_path, monkeypatch):
    timed = []

    def stopwatch(model, *args):
        timed.append(model.dtype)
        return lambda method: 1 / (0.2 + 0.8 * method.keep)

    monkeypatch.setattr(equal_time, "stopwatch", stopwatch)
    out = tmp_path / "out"
    command = words(out, "--method", "illava", "--speedup", 2, "--time", 1, "--dtype", "float32")
    result = invoke(*command, "--time-dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert timed == [torch.bfloat16]
    folder = out / "zoo-S"
    dtypes = [json.loads((folder / file).read_text()) for file in ("settings.json", "timing.json")]
    assert [found["dtype"] for found in dtypes] == ["float32", "bfloat16"]
    assert json.loads((folder / "budgets.json").read_text())["identity"]["dtype"] == "bfloat16"
    assert ", in bfloat16." in (out / "comparison.md").read_text()
    assert_error(invoke(*command), "dtype of times bfloat16 there, float32 here")
    assert_error(invoke(*command, "--time-dtype", "float33"), "--time-dtype: dtype float33: give one of auto")
    # At given budgets, too: times of one dtype are not taken for those of the other.
    command = words(tmp_path / "keep", "--method", "illava", "--keep", "1/3", "--time", 1)
    for more, dtype in (((), "float32"), (("--time-dtype", "bfloat16"), "bfloat16")):
        assert invoke(*command, *more).exit_code == 0
        timing = json.loads((tmp_path / "keep" / "zoo-S" / "timing.json").read_text())
        assert timing["dtype"] == dtype


def test_another_clock(tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = words(out, "--method", "illava", "--speedup", 2, "--time", 0, "--clock", "qwen2-vl-2b")
    assert invoke(*command).exit_code == 0
    rates = json.loads((out / "clock.json").read_text())
    assert (rates["shape"], rates["dtype"]) == ("qwen2-vl-2b", "float32")
    assert rates_of(rates) == RATES
    row = rows_of(out)["illava 2x"]
    assert row["missed"] is False
    assert row["expected"] == pytest.approx(2, rel=0.01)
    assert "### 2x to the first token, as predicted on qwen2-vl-2b" in (out / "comparison.md").read_text()
    # The rates serve again.
    monkeypatch.setattr(clock, "rates_on", None)
    assert invoke(*command).exit_code == 0
    # Rates may be copied to another folder, for the same shape.
    other = tmp_path / "other"
    other.mkdir()
    (other / "clock.json").write_bytes((out / "clock.json").read_bytes())
    command[2] = other
    assert_error(
        invoke(*command[:-1], "internvl2.5-1b"),
        "clock.json: rates of qwen2-vl-2b cpu float32 there, internvl2.5-1b cpu float32 here",
    )
    assert invoke(*command).exit_code == 0
    assert rows_of(other)["illava 2x"]["keep"] == row["keep"]
    # Or named, which leaves them where they are.
    third = tmp_path / "third"
    command[2] = third
    assert invoke(*command[:-1], out / "clock.json").exit_code == 0
    assert rows_of(third)["illava 2x"]["keep"] == row["keep"]
    assert not (third / "clock.json").exists()
    command[2] = other
    (other / "clock.json").write_text("[]")
    assert_error(invoke(*command), "clock.json: not the rates of a clock", "move it")


def rates_of(saved: dict) -> Rates:
    return clock.rates_from_dict(saved["rates"])


def test_methods_that_the_model_refuses_are_listed(tmp_path):
    deep = Illava(encoder_layers=(), llm_layers=(40,), keep=0.5).save_pretrained(tmp_path / "deep").parent
    own = Illava(encoder_layers=(1,), encoder_keep=0.5).save_pretrained(tmp_path / "own").parent
    out = tmp_path / "out"
    result = invoke(*words(out, "--method", "illava", deep, own, "--speedup", "1.3", "1.2", "--time", 0))
    assert result.exit_code == 0, result.output
    reason = "llm_layers: this model has layers 0 to 5, got 40"
    assert f"| deep 1.2x, deep 1.3x | {reason} |" in (out / "comparison.md").read_text()
    # A schedule of its own has one row, at no speed-up.
    assert rows_of(out)["own as saved"]["target"] is None


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--speedup", "2", "--keep", "1/3"], ["give either --speedup or --keep, not both"]),
        (["--speedup", "1"], ["--speedup 1: give a number above 1"]),
        (["--speedup", "fast"], ["--speedup fast: give a number above 1"]),
        (["--speedup", "inf"], ["--speedup inf"]),
        (["--clock", "qwen2-vl-2b"], ["--clock qwen2-vl-2b needs --speedup"]),
        (["--speedup", "2", "--clock", "qwen"], ["--clock qwen: unknown shape", "or one of qwen2-vl-2b"]),
    ],
)
def test_errors(more, parts, tmp_path):
    assert_error(invoke("compare", "--output", tmp_path / "out", *more), *parts)
    assert not (tmp_path / "out").exists()
