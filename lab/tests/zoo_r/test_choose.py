"""The rule by which the preset is chosen, on made-up answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from illava_lab.benchmarks.zoo_r import choose
from illava_lab.benchmarks.zoo_r.choose import SPEEDS

QUESTIONS = 40
Answers = dict[str, tuple[float, float]]
"""By label: the share that is right and the KL."""


def run(answers: Answers, tasks: dict[str, float]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings and lines as a run at equal time leaves them; ``tasks``: what plain gets right of each."""
    rows = {"plain": None, "blank": None, **dict.fromkeys(answers)}
    settings = {"tasks": dict.fromkeys(tasks), "rows": rows, "seed": 0}
    shares = {"blank": (0.0, 3.0), **answers}
    lines = [
        {
            "task": task,
            "row": label,
            "sample": number,
            "cluster": "",
            "correct": number < round(QUESTIONS * share),
            "kl": kl,
        }
        for task, plain in tasks.items()
        for label, (share, kl) in {"plain": (plain, 0.0), **shares}.items()
        for number in range(QUESTIONS)
    ]
    return settings, lines


def everywhere(**methods: tuple[float, float]) -> Answers:
    return {f"{name} {speed}x": found for name, found in methods.items() for speed in SPEEDS}


def test_the_lowest_divergence_of_those_that_are_not_significantly_worse() -> None:
    answers = everywhere(near=(0.95, 0.30), nearer=(0.92, 0.20), wrong=(0.5, 0.10), tome=(1.0, 0.05))
    found = choose.choose(*run(answers, {"photo": 1.0, "text": 0.1}), ["near", "nearer", "wrong"])
    # 20 of 40 against 38 of 40 is far outside chance; 37 against 38 is not; tome is no candidate.
    assert found.worse == {"near": (), "nearer": (), "wrong": SPEEDS}
    assert found.chosen == "nearer"
    assert choose.mean_kl(found.figures["near"]) == pytest.approx(0.30)


def test_worse_at_one_speed_or_not_reaching_one_is_out() -> None:
    answers = everywhere(near=(0.95, 0.30), falls=(0.95, 0.10), ends=(0.95, 0.01))
    answers["falls 4x"] = (0.4, 0.10)
    del answers["ends 4x"]
    answers["ends 3.1x (its most)"] = (0.95, 0.01)
    found = choose.choose(*run(answers, {"photo": 1.0}), ["near", "falls", "ends"])
    assert found.worse == {"near": (), "falls": (4,)}
    assert found.chosen == "near"
    lines = choose.page_lines(found, ["near", "falls", "ends"])
    assert lines[2].startswith("| falls | +0.0 (+0.0 to +0.0) | +0.0 (+0.0 to +0.0) | **-55.0 (")
    assert lines[3].startswith("| **near** |")
    assert lines[4] == "| ends | +0.0 (+0.0 to +0.0) | +0.0 (+0.0 to +0.0) | - | 0.010 | 0.010 | - | - |"
    assert lines[-1] == "Chosen: `near`."


def test_divergence_counts_tasks_that_plain_has_not_learnt() -> None:
    settings, lines = run(everywhere(reads=(0.9, 0.2), blind=(0.9, 0.1)), {"photo": 1.0, "text": 0.0})
    for line in lines:
        if line["task"] == "text" and line["row"].startswith("blind"):
            line["kl"] = 1.0
    assert choose.choose(settings, lines, ["reads", "blind"]).chosen == "reads"


def test_nothing_learnt_is_said() -> None:
    with pytest.raises(ValueError, match="at none of the tasks"):
        choose.choose(*run(everywhere(one=(0.9, 0.2)), {"text": 0.2}), ["one"])


def test_a_folder_is_read(tmp_path: Path) -> None:
    settings, lines = run(everywhere(one=(0.9, 0.2)), {"photo": 1.0})
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert choose.read(tmp_path) == (settings, lines)
