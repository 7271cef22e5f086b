"""The rule by which the preset is chosen, on made-up answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from illava_lab.benchmarks.zoo_r import __main__ as command
from illava_lab.benchmarks.zoo_r import choice_page, choose
from illava_lab.benchmarks.zoo_r.choice_figures import SPEEDS, parts
from illava_lab.benchmarks.zoo_r.choose import REFERENCE
from illava_lab.real.candidates import candidates

import illava

QUESTIONS = 40


class Made(NamedTuple):
    """A row's answers in each task."""

    right: float = 0.9
    """The share that is right."""
    kl: float = 0.3
    spread: float = 0.0
    """Every other question has so much more divergence, and the others so much less."""
    blocks: tuple[int, ...] = (2, 4, 6)
    """Of the method."""


Answers = dict[str, Made]
"""By label."""


def run(
    answers: Answers,
    tasks: dict[str, float] | None = None,
    clusters: int = QUESTIONS,
    speedups: dict[str, float] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Settings and lines as a run at equal time leaves them.

    Args:
        tasks: what plain gets right of each.
        clusters: pictures of a task.
        speedups: measured, by label; the others are exact.
    """
    tasks = {"photo": 1.0} if tasks is None else tasks
    rows: dict[str, Any] = {"plain": {"options": None}, "blank": {"options": None}}
    for label, made in answers.items():
        method = illava.Illava(keep=1 / 9, encoder_layers=made.blocks, llm_layers=())
        rows[label] = {"options": method.to_dict()}
    exact = {label: float(label.split()[-1][:-1]) for label in answers if label.endswith("x")}
    measured = {**exact, **(speedups or {})}
    settings = {"tasks": dict.fromkeys(tasks), "rows": rows, "seed": 0, "speedups": measured}
    lines = [
        {
            "task": task,
            "row": label,
            "sample": number,
            "cluster": str(number % clusters),
            "correct": number < round(QUESTIONS * made.right),
            "kl": made.kl + made.spread * (-1) ** number,
        }
        for task, plain in tasks.items()
        for label, made in {"plain": Made(plain, 0.0), "blank": Made(0.0, 3.0), **answers}.items()
        for number in range(QUESTIONS)
    ]
    return settings, lines


def everywhere(**methods: Made) -> Answers:
    """The same at all speeds, and today's preset."""
    named = {REFERENCE: Made(blocks=(3,)), **methods}
    return {f"{name} {speed}x": made for name, made in named.items() for speed in SPEEDS}


def chosen(answers: Answers, *names: str, **more: Any) -> choose.Choice:
    return choose.choose(*run(answers, **more), [REFERENCE, *names])


def result(choice: choose.Choice, name: str, names: tuple[str, ...]) -> str:
    """The last cell of a method's line."""
    lines = choice_page.page_lines(choice, [REFERENCE, *names])
    (line,) = (line for line in lines if re.match(rf"\| \**{name}\** \|", line))
    return line.split(" | ")[-1].removesuffix(" |")


# -- better and worse ------------------------------------------------------------------------------


def test_significantly_better_somewhere_and_worse_nowhere() -> None:
    names = ("nearer", "level", "wrong", "right")
    answers = everywhere(
        nearer=Made(kl=0.25), level=Made(kl=0.29, spread=0.5), wrong=Made(0.5, kl=0.1), tome=Made(1.0, kl=0.0)
    )
    found = chosen(answers, *names)
    # 20 of 40 against 36 of 40 is far outside chance, and so is a difference that all questions have; tome
    # is no candidate.
    assert found.chosen == "nearer"
    assert [result(found, name, names) for name in names[:3]] == [
        "chosen",
        "nowhere better",
        "worse: 2x, 3x, 4x",
    ]
    # Accuracy alone is enough.
    preset = {REFERENCE: Made(0.6, blocks=(3,))}
    found = chosen(everywhere(**preset, wrong=Made(0.5), right=Made(1.0, kl=0.31, spread=0.5)), *names)
    assert found.chosen == "right"
    assert result(found, REFERENCE, names) == ""


def test_the_preset_stays_without_a_better_one() -> None:
    found = chosen(everywhere(level=Made(kl=0.28, spread=0.5)), "level")
    assert found.chosen == REFERENCE
    lines = choice_page.page_lines(found, [REFERENCE, "level"])
    assert lines[2].startswith("| level | 3, score | 2.00 / 3.00 / 4.00 | +0.0 (+0.0 to +0.0) |")
    assert lines[2].endswith(" | 0.280 | - | nowhere better |")
    assert lines[3] == (
        "| **illava-best** | 1, score | 2.00 / 3.00 / 4.00 | - | - | - | - | - | - | 0.300 | - | chosen |"
    )
    assert lines[-1] == "The preset stays."


def test_worse_at_one_speed_is_out() -> None:
    answers = everywhere(falls=Made(kl=0.1), near=Made(kl=0.2))
    answers["falls 4x"] = Made(0.4, kl=0.1)
    found = chosen(answers, "falls", "near")
    assert found.chosen == "near"
    assert result(found, "falls", ("falls", "near")) == "worse: 4x"
    # More divergence is worse, too.
    answers["falls 4x"] = Made(kl=0.4)
    assert result(chosen(answers, "falls", "near"), "falls", ("falls", "near")) == "worse: 4x"


def test_the_correction_covers_all_candidates_speeds_and_measures() -> None:
    """A difference of 2.8 standard errors, for one test p of about 0.005."""
    near = Made(kl=0.3 - 2.8 * 0.5 / QUESTIONS**0.5, spread=0.5)
    alone = chosen(everywhere(near=near), "near")
    p = alone.compared["near"][2].kl.p
    # Of six tests, the three of accuracy are of no difference at all.
    assert alone.chosen == "near"
    assert p is not None
    assert 0.005 < p < 0.05
    names = [f"other{number}" for number in range(9)]
    among = chosen(everywhere(near=near, **dict.fromkeys(names, Made())), "near", *names)
    assert among.compared["near"][2].kl.p == pytest.approx(10 * p)
    assert among.chosen == REFERENCE
    # Others than candidates do not count.
    assert chosen(everywhere(near=near, **dict.fromkeys(names, Made())), "near").chosen == "near"


def test_questions_about_a_picture_are_drawn_together() -> None:
    """Four pictures, of which three differ by -1 and one by +0.5: 13 of 256 draws have a sum above 0."""
    settings, lines = run(everywhere(mixed=Made()), clusters=4)
    for line in lines:
        if line["row"].startswith("mixed"):
            line["kl"] = 1.3 if line["cluster"] == "0" else 0.3
        elif line["row"].startswith(REFERENCE):
            line["kl"] = 0.8 if line["cluster"] == "0" else 1.3
    found = choose.choose(settings, lines, ["mixed"])
    difference = found.compared["mixed"][3].kl
    assert difference.of.value == pytest.approx(-0.625)
    assert difference.p == pytest.approx(6 * 2 * 13 / 256, rel=0.1)
    assert found.chosen == REFERENCE
    # As many pictures as questions: the same difference is significant.
    for line in lines:
        line["cluster"] = ""
    assert choose.choose(settings, lines, ["mixed"]).chosen == "mixed"


# -- speed -----------------------------------------------------------------------------------------


def test_a_candidate_must_have_the_speed() -> None:
    answers = everywhere(near=Made(kl=0.2), slow=Made(kl=0.1), ends=Made(kl=0.1), unknown=Made(kl=0.1))
    del answers["ends 4x"]
    answers["ends 3.1x (its most)"] = Made(kl=0.1)
    names = ("near", "slow", "ends", "unknown")
    measured = {"near 2x": 2.3, "near 4x": 3.81, "slow 4x": 3.79, "unknown 3x": 1.0}
    found = chosen(answers, *names, speedups=measured)
    assert found.chosen == "near"
    assert result(found, "slow", names) == "too slow: 4x"
    assert result(found, "ends", names) == "too slow: 4x"
    lines = choice_page.page_lines(found, names)
    assert any("| **near** | 3, score | 2.30 / 3.00 / 3.81 |" in line for line in lines)
    assert any("| slow | 3, score | 2.00 / 3.00 / 3.79 (slow) |" in line for line in lines)
    assert any("| ends | 3, score | 2.00 / 3.00 / - |" in line for line in lines)
    # What was not timed is not known to have it.
    settings, answered = run(answers)
    del settings["speedups"]["unknown 2x"]
    assert "unknown" not in choose.choose(settings, answered, names).able


def test_nothing_is_tested_where_the_preset_misses_the_speed() -> None:
    answers = everywhere(near=Made(kl=0.3))
    answers["near 4x"] = Made(kl=0.1)
    assert chosen(answers, "near").chosen == "near"
    found = chosen(answers, "near", speedups={f"{REFERENCE} 4x": 4.3})
    assert found.chosen == REFERENCE
    lines = choice_page.page_lines(found, ["near"])
    assert "`illava-best` misses 4x by more than 5 %: no tests there." in lines
    assert "4 tests against `illava-best`." in lines[-4]


# -- the simplest ----------------------------------------------------------------------------------


def test_of_those_near_the_lowest_divergence_the_simplest() -> None:
    many = Made(kl=0.10, blocks=(2, 4, 6))
    one = Made(kl=0.11, spread=0.2, blocks=(8,))
    names = ("many", "one", "three", "two")
    found = chosen(everywhere(many=many, one=one), *names)
    assert found.chosen == "one"
    assert result(found, "many", names) == "less simple"
    assert found.above["many"].of.value == 0
    # Far above the lowest, if not above today's preset.
    far = chosen(everywhere(many=many, one=one._replace(kl=0.2, spread=0.0)), *names)
    assert far.chosen == "many"
    assert result(far, "one", names) == "KL above the lowest"
    # Of equally simple ones, that with the lower divergence.
    level = chosen(everywhere(three=many._replace(kl=0.11, spread=0.2), many=many), *names)
    assert level.chosen == "many"
    assert result(level, "three", names) == "as simple"


def test_what_is_simpler() -> None:
    found = {name: parts(method.to_dict()) for name, method in candidates().items()}
    assert found["candidate-former"] == found["candidate-log"] == (1, True, True)
    assert parts(illava.Illava.best(1 / 9).to_dict()) == (3, True, True)
    # No step in the LLM before no score, and fewer steps in the encoder before both.
    assert found["candidate-distance-468"] == (3, False, False) != found["candidate-encoder"]
    names = ("former", "distance-468", "encoder", "size-2345678", "size-2345678-llm")
    several = [found[f"candidate-{name}"] or () for name in names]
    assert several == sorted(several)
    assert len(set(several)) == len(several)
    # The model decides how many steps these have.
    assert parts(illava.Illava(1 / 9).to_dict()) is None
    assert parts(illava.ToMe(keep=1 / 9).to_dict()) is None


# -- what is read, and the page --------------------------------------------------------------------


def test_divergence_counts_tasks_that_plain_has_not_learnt() -> None:
    answers = everywhere(reads=Made(kl=0.2), blind=Made(kl=0.1))
    settings, lines = run(answers, {"photo": 1.0, "text": 0.0})
    assert choose.choose(settings, lines, ["reads", "blind"]).chosen == "blind"
    for line in lines:
        if line["task"] == "text" and line["row"].startswith("blind"):
            line["kl"] = 1.0
    found = choose.choose(settings, lines, ["reads", "blind"])
    assert found.chosen == "reads"
    assert found.figures["blind"][2].kl[0] == pytest.approx((0.1 + 1.0) / 2)
    # What it gets right there does not count.
    assert found.figures["blind"][2].accuracy[0] == pytest.approx(90)


def test_divergence_that_is_not_a_number() -> None:
    settings, lines = run(everywhere(broken=Made(kl=0.1)))
    next(line for line in lines if line["row"] == "broken 3x")["kl"] = None
    found = choose.choose(settings, lines, ["broken"])
    assert found.chosen == REFERENCE
    assert result(found, "broken", ("broken",)) == "KL is not a number"


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ValueError, match="at none of the tasks"):
        choose.choose(*run(everywhere(one=Made()), {"text": 0.2}), ["one"])
    with pytest.raises(ValueError, match="no row of illava-best at 2x, 3x or 4x"):
        choose.choose(*run({"one 2x": Made()}), ["one"])


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    name = "candidate-distance-468"
    settings, lines = run(everywhere(**{name: Made(kl=0.2, blocks=(4, 6, 8))}))
    measured, rows = settings.pop("speedups"), {REFERENCE: {}, name: {}}
    for label, speedup in measured.items():
        method, _, target = label.removesuffix("x").rpartition(" ")
        rows[method][target] = {"keep": 0.1, "speedup": speedup, "ends": False}
    rows[name]["9"] = {"keep": 1 / 64, "speedup": 5.0, "ends": True}
    clock = {"dtype": "float32", "cpu": "a processor", "threads": 2, "prompts": 1}
    settings |= {"limit": 48, "dtype": "bfloat16", "device": "cpu", "weights": "abc"}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(FileNotFoundError, match=r"budgets\.json"):
        choose.read(tmp_path)
    (tmp_path / "budgets.json").write_text(json.dumps({"identity": clock, "rows": rows}))
    assert choose.read(tmp_path)[1] == lines
    # The end of a method is at no speed-up.
    assert {label for label in choose.read(tmp_path)[0]["speedups"] if "x" in label} == set(measured)
    command.publish_choice(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert page.endswith(f"Chosen: `{name}`.\n")
    assert choose.RULE in page
    assert "at most 48 questions a task, 1 tasks" in page
    assert "measured in float32 on a processor, threads: 2, on 1 prompt, at" in page
