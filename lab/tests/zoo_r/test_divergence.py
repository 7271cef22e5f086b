"""Divergences at equal time: means over tasks by group, differences paired by question, and their tables."""

from __future__ import annotations

from typing import Any

import pytest
from illava_lab.benchmarks.zoo_r import divergence

KLS = {
    # Of three questions each: one text task, and one of no group.
    "read": {"ours 2x": (0.1, 0.2, 0.3), "other 2x": (0.5, 0.6, 0.7), "late 4x": (1.0, 1.0, 1.0)},
    "see": {"ours 2x": (0.0, 0.0, 0.6), "other 2x": (0.0, 0.0, 0.6), "late 4x": (1.0, 1.0, 1.0)},
}
SETTINGS = {
    "seed": 0,
    "tasks": dict.fromkeys(KLS, ""),
    "rows": dict.fromkeys(("plain", *KLS["read"])),
    "speedups": {"ours 2x": 2.0, "other 2x": 1.95, "late 4x": 4.0},
}


def lines() -> list[dict[str, Any]]:
    rows = {task: {"plain": (0.0, 0.0, 0.0), **kls} for task, kls in KLS.items()}
    return [
        {"task": task, "row": label, "sample": n, "kl": kl, "cluster": None}
        for task, some in rows.items()
        for label, kls in some.items()
        for n, kl in enumerate(kls)
    ]


@pytest.fixture
def found() -> divergence.Figures:
    return divergence.measure(SETTINGS, lines(), {"read": "text"}, "ours", draws=500)


def test_means_are_over_the_tasks_of_a_group(found: divergence.Figures) -> None:
    assert set(found) == {divergence.ALL, "text"}
    assert found["text"]["ours"]["2"]["kl"] == pytest.approx(0.2)
    assert found[divergence.ALL]["ours"]["2"]["kl"] == pytest.approx((0.2 + 0.2) / 2)
    assert found[divergence.ALL]["other"]["2"]["kl"] == pytest.approx((0.6 + 0.2) / 2)


def test_differences_are_paired_and_need_the_reference_at_the_speed(found: divergence.Figures) -> None:
    # 0.4 more on each question of one task, nothing on the other: without spread.
    more = found["text"]["other"]["2"]["more"]
    assert [more[key] for key in ("low", "value", "high")] == pytest.approx([0.4] * 3)
    more = found[divergence.ALL]["other"]["2"]["more"]
    assert [more[key] for key in ("low", "value", "high")] == pytest.approx([0.2] * 3)
    assert "more" not in found["text"]["ours"]["2"]
    assert "more" not in found["text"]["late"]["4"]


def test_a_row_that_misses_its_speed_is_not_compared() -> None:
    settings = {**SETTINGS, "speedups": {"ours 2x": 2.0, "other 2x": 1.85}}
    found = divergence.measure(settings, lines(), {}, "ours", draws=100)
    assert "more" not in found[divergence.ALL]["other"]["2"]
    assert found[divergence.ALL]["other"]["2"]["kl"] == pytest.approx(0.4)


def test_bold_is_what_holds_after_the_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "two_sided_p", lambda more: 0.03)
    found = divergence.measure(SETTINGS, lines(), {"read": "text"}, "ours", draws=100)
    # One in each of two groups: 0.03 alone, 0.06 after the correction.
    assert [found[group]["other"]["2"]["p"] for group in ("", "text")] == pytest.approx([0.06, 0.06])
    assert "**" not in "\n".join(divergence.section(found, "ours"))


def test_what_is_not_a_number_is_shown_as_missing() -> None:
    some = lines()
    some[-1]["kl"] = None
    found = divergence.measure(SETTINGS, some, {}, "ours", draws=100)
    assert found[divergence.ALL]["late"]["4"]["kl"] is None
    assert "nan" not in "\n".join(divergence.section(found, "ours"))


def test_tables_have_methods_at_all_speeds_first_and_mark_what_holds(found: divergence.Figures) -> None:
    text = "\n".join(divergence.section(found, "ours"))
    assert "### All tasks" in text
    assert "### Text tasks" in text
    assert "| *ours* | 0.200 | - | - | - | - | - |" in text
    assert "**+0.400 (+0.400 to +0.400)**" in text
    assert text.index("*ours*") < text.index("| other |") < text.index("| late |")
