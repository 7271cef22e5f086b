"""docs/performance.md is up to date with consistent files, and its verdicts follow from the figures."""

from __future__ import annotations

import copy
import json

import pytest
from illava_lab.benchmarks import performance
from illava_lab.benchmarks.performance_sections import PARTS


@pytest.fixture(scope="module")
def found():
    return performance.read()


def test_the_page_is_up_to_date(found):
    assert performance.PAGE.read_text(encoding="utf-8") == performance.page(found)


def verdicts(found) -> dict[str, str]:
    return {row[0]: row[-1] for row in performance.targets(found)}


def test_a_missed_target_is_named_first(found):
    prefill, first = (f"qwen2-vl-2b, to 1/9, then 0.9 x4: {part}" for part in ("prefill", "first token"))
    reached = verdicts(found)
    changed = copy.deepcopy(found)
    run = next(run for run in changed["speed"] if run["shape"] == "qwen2-vl-2b")
    for row in run["rows"]:
        tuned = row["name"].endswith("tuned")
        row["measured"]["ttft"] = {"median": 1.5, "low": 1.4, "high": 1.6}
        row["measured"]["prefill"]["median"] = 6.5 if tuned else 5.5
    assert verdicts(changed)[first] == "**not reached**" != reached[first]
    assert verdicts(changed)[prefill] == "only with tuning"
    lines = performance.page(changed).splitlines()
    assert lines.index(f"| {first} | 4x | 1.50x, tuned 1.50x | **not reached** |") < 14


def test_what_openvino_does_faster_comes_first(found):
    (run,) = copy.deepcopy(found["versus_openvino"])
    for label, figures in run["torch_times_faster"].items():
        for part, figure in figures.items():
            figure["median"] = 0.5 if part == "ttft" else 2.0 if "1/3" in label else 1.5
    said = performance.against(run)
    assert "slower** in first token 0.50-0.50x, and faster in encoder 1.50-2.00x" in said


@pytest.mark.parametrize("name", ["speed-qwen2-vl-2b.json", "speed-llava-onevision-0.5b.json"])
def test_ratios_are_those_of_the_raw_seconds(name):
    found = json.loads((performance.FOLDER / name).read_text())
    for row in found["rows"]:
        for part in PARTS:
            ratios = [
                plain / merged
                for plain, merged in zip(found["plain_seconds"][part], row["seconds"][part], strict=True)
            ]
            assert row["measured"][part]["median"] == pytest.approx(sorted(ratios)[len(ratios) // 2])
