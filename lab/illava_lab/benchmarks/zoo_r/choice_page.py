"""The page of the preset's choice, :mod:`.choose`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from illava.evaluation.comparison import ALPHA
from illava.evaluation.metrics import LEAST_PLAIN
from illava.evaluation.summary import number, table
from illava.planning.equal_time import WANTED

from .choice_figures import SPEEDS, Figures, mean_kl
from .choose import OFF, REFERENCE, RULE, Choice, Difference

HEAD = (
    *("", "steps", "speed-ups"),
    *(f"{speed}x: points" for speed in SPEEDS),
    *(f"{speed}x: KL" for speed in SPEEDS),
    *("mean KL", "above the lowest", "result"),
)
FORMER_OUTCOME = (
    '**What came of it.** `illava-best` in this table, "today\'s preset" of the rule, is the preset of '
    "0.1: `candidate-former` in later runs, with `candidate-log` the same whose attention knows "
    "sizes. The rule chose `candidate-log`. On test questions at equal time its first token then "
    "moved 0.042, 0.087 and 0.171 nats at 2x, 3x and 4x, more than with MMTok (0.037, 0.073, 0.160) "
    "and with `candidate-attention-468`, the first here (0.018, 0.042, 0.129; "
    "[zoo-r-equal.md](zoo-r-equal.md)). So the steps moved to the late blocks of the encoder, and a "
    "quarter of the reduction stayed with a step in the middle of the LLM, because the toys lose at "
    "small budgets when the encoder does all of it. That is the preset of today; on the toys at 1/9 "
    'it does not differ significantly from candidate-log ([ablations](ablations.md): "one step in the '
    'middle of both"). **This step was taken after a look at some of the test answers of zoo/R, and '
    "at a few validation answers that were not kept**, so the test table is not independent of it, "
    "and no command repeats it. Where the encoder merges was measured afterwards on validation "
    "questions ([curves](zoo-r-curves.md), `make zoo-r-curves`): with the same number of tokens left, "
    "no single step is significantly nearer to plain than the three late ones, and those at or before "
    "its middle are significantly farther. Its share of the reduction was not chosen anew."
)
"""What followed from the choice with the preset of 0.1 as the reference."""


def opening(settings: Mapping[str, Any]) -> list[str]:
    """What the page says before the table."""
    timing = settings["timing"]
    return [
        "# The choice of the preset on zoo/R",
        "",
        "Written by `python -m illava_lab.benchmarks.zoo_r choose` from what `make zoo-r-choice` measures. "
        "The candidates are defined in `illava_lab/real/candidates.py`: a number such as 468 lists the "
        "encoder blocks (0-based, of nine) of their steps; attention, size or none of both chooses beside "
        "distance, or coverage alone; `-llm`: with a step in the LLM. candidate-former is candidate-log "
        "whose attention does not know the sizes of merged tokens, as that of all others does.",
        "",
        *outcome(settings),
        f"The rule, written before the questions were asked: {RULE} What is chosen here becomes the preset "
        "only if it is not worse on zoo/L either.",
        "",
        f"Validation split, at most {settings['limit']} questions a task, {len(settings['tasks'])} tasks, "
        f"answered in {settings['dtype']} on {settings['device']}, weights {settings['weights']}. *steps*: "
        "in the encoder, whether the LLM has one, and whether units have a score in the encoder. "
        f"*speed-ups*: to the first token, measured in {timing['dtype']} on {timing['cpu']}, threads: "
        f"{timing['threads']}, on {timing['prompts']} prompt{'s' * (timing['prompts'] != 1)}, at the budgets "
        f"for 2x, 3x and 4x: the median of {WANTED} measurements and more near each. *points*: of accuracy, "
        f"the mean over the tasks that plain gets right at least {100 * LEAST_PLAIN:g} % of the time, and "
        f"*KL*: in nats, both against `{REFERENCE}` at that speed, paired, with 95 % intervals, which "
        f"are not corrected. Bold: p < {ALPHA:.2g} after Holm's correction.",
    ]


def outcome(settings: Mapping[str, Any]) -> list[str]:
    """What followed from the choice, where its reference is the preset of 0.1."""
    rows = (row["options"] for label, row in settings["rows"].items() if label.startswith(f"{REFERENCE} "))
    former = any(options["where"] == "middle" for options in rows)
    return [FORMER_OUTCOME, ""] if former else []


def page_lines(choice: Choice, candidates: Sequence[str]) -> list[str]:
    """The table, the lowest mean KL first, and the result."""
    figures = choice.figures
    means = {name: float(mean_kl(rows)[0]) for name, rows in figures.items() if set(rows) == set(SPEEDS)}
    order = sorted(means, key=lambda name: (math.isnan(means[name]), means[name]))
    cells = []
    for name in [*order, *(name for name in figures if name not in means)]:
        rows, compared = figures[name], choice.compared.get(name, {})
        shown = name if name in candidates else f"*{name}*"
        cells.append(
            [
                f"**{shown}**" if name == choice.chosen else shown,
                _steps(choice.parts.get(name)),
                " / ".join(_speedup(rows.get(speed), speed) for speed in SPEEDS),
                *(_cell(compared[s].accuracy, "+.1f") if s in compared else "-" for s in SPEEDS),
                *(_cell(compared[s].kl, "+.3f") if s in compared else "-" for s in SPEEDS),
                number(means.get(name), ".3f"),
                _cell(choice.above[name], "+.3f") if name in choice.above else "-",
                _result(choice, name, candidates),
            ]
        )
    tests = 2 * sum(len(choice.compared[name]) for name in choice.able)
    missed = [s for s in SPEEDS if s not in figures[REFERENCE] or not figures[REFERENCE][s].is_at(s)]
    return [
        *table(HEAD, cells, left=3),
        "",
        f"*Italics*: not among the candidates, and not tested. {tests} tests against `{REFERENCE}`.",
        *([f"`{REFERENCE}` misses {_times(missed)} by more than {OFF}: no tests there."] if missed else []),
        "",
        "The preset stays." if choice.chosen == REFERENCE else f"Chosen: `{choice.chosen}`.",
    ]


def _result(choice: Choice, name: str, candidates: Sequence[str]) -> str:
    """What the rule says of a candidate."""
    if name == choice.chosen:
        return "chosen"
    if name == REFERENCE or name not in candidates:
        return ""
    if name not in choice.able:
        rows = choice.figures[name]
        slow = [speed for speed in SPEEDS if speed not in rows or not rows[speed].reaches(speed)]
        return f"too slow: {_times(slow)}" if slow else "KL is not a number"
    if worse := [speed for speed, at in choice.compared[name].items() if at.worse]:
        return f"worse: {_times(worse)}"
    if name not in choice.above:
        return "nowhere better"
    if choice.above[name].sign > 0:
        return "KL above the lowest"
    return "as simple" if choice.parts[name] == choice.parts[choice.chosen] else "less simple"


def _times(speeds: Iterable[int]) -> str:
    return ", ".join(f"{speed}x" for speed in sorted(speeds))


def _steps(found: tuple[int, bool, bool] | None) -> str:
    if found is None:
        return "-"
    blocks, llm, scored = found
    return f"{blocks}{' + LLM' if llm else ''}{', score' if scored else ''}"


def _speedup(figures: Figures | None, speed: int) -> str:
    if figures is None or figures.speedup is None:
        return "-"
    return f"{figures.speedup:.2f}{'' if figures.reaches(speed) else ' (slow)'}"


def _cell(found: Difference, form: str) -> str:
    if found.of.value is None or found.of.low is None or found.of.high is None:
        return number(found.of.value, form)
    text = f"{found.of.value:{form}} ({found.of.low:{form}} to {found.of.high:{form}})"
    return f"**{text}**" if found.sign else text
