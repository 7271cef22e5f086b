"""What ``illava ask`` prints about an answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from ..io.tables import new_table
from .console import print_table

if TYPE_CHECKING:
    from ..ask import Answer

STAGES = {"pixels": "image", "encoder": "image encoder", "projector": "projector", "llm": "LLM"}


def print_answer(answer: Answer) -> None:
    """Print the answers, the number of tokens at every step, and time and cost."""
    if answer.plain_text is None:
        typer.echo(answer.text)
    else:
        name = answer.report.method["method"]
        typer.echo(
            f"{'plain:':{len(name) + 1}} {answer.plain_text}\n{name}: {answer.text}\n{_verdict(answer)}"
        )
    report, rounds = answer.report, len(answer.timings)
    print_table(
        f"Visual tokens: {report.final_tokens} of {report.visual_tokens} left, "
        f"{report.average_tokens:.1f} on average over the LLM's layers",
        _steps_table(answer),
    )
    how = "one run without warm-up"
    if answer.plain_timings is not None:
        how = f"median (range) of {rounds} rounds; ratios compare the two runs of a round"
    print_table(f"Time and cost: {how}", _cost_table(answer))


def _verdict(answer: Answer) -> str:
    """In one line: whether the answers agree, and what was gained."""
    same = answer.text == answer.plain_text
    said = "Same answer" if same else f'The answer differs: "{answer.text}", plain "{answer.plain_text}"'
    measured = [_measured(answer, *named) for named in (("ttft", "first token"), ("total", "whole answer"))]
    much, little = answer.report.plain_cost, answer.report.cost
    return (
        f"{said}. Measured: {', '.join(measured)}. "
        f"Counted: {much.total / little.total:.2f}x fewer FLOPs, KV cache "
        f"{much.kv_bytes / little.kv_bytes:.2f}x smaller."
    )


def _measured(answer: Answer, part: str, name: str) -> str:
    """A speed-up, if the 95 % interval of its median (below six rounds: its range) excludes 1."""
    from statistics import median

    from ..bench.timing import median_interval, ratios

    assert answer.plain_timings is not None
    values = ratios(answer.plain_timings, answer.timings, part)
    low, high = median_interval(values) or (min(values), max(values))
    if low <= 1 <= high:
        return f"{name} not measurably faster or slower"
    return f"{name} {median(values):.2f}x as fast"


def _steps_table(answer: Answer) -> Table:
    table = new_table("stage", "layer", "before", "after")
    for step in answer.report.steps:
        layer = "" if step.stage in ("pixels", "projector") else str(step.layer)
        table.add_row(STAGES[step.stage], layer, str(step.before), str(step.after))
    return table


def _cost_table(answer: Answer) -> Table:
    from ..bench.timing import ratio, spread

    fast, plain = answer.timings, answer.plain_timings
    table = new_table("", "plain", "merged", "plain / merged")
    names = {
        "encoder": "image encoder",
        "prefill": "prefill",
        "decode_per_token": "decode, per token",
        "ttft": "time to first token",
        "total": "total",
    }
    for part, name in names.items():
        after = _seconds(spread([getattr(timing, part) for timing in fast]).median)
        if plain is None:
            table.add_row(name, "", after, "")
            continue
        before = _seconds(spread([getattr(timing, part) for timing in plain]).median)
        gain = ratio(plain, fast, part)
        shown = "" if math.isnan(gain.median) else f"{gain.median:.2f}x ({gain.low:.2f}-{gain.high:.2f})"
        table.add_row(name, before, after, shown)
    costs = answer.report.plain_cost, answer.report.cost
    for name, unit, (much, little) in (
        ("FLOPs", "", [cost.total for cost in costs]),
        ("KV cache", "B", [cost.kv_bytes for cost in costs]),
    ):
        table.add_row(name, _scaled(much, unit), _scaled(little, unit), f"{much / little:.2f}x")
    return table


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"


def _scaled(value: float, unit: str) -> str:
    """1234567 as "1.23 M"."""
    power = 0 if value < 1 else min(int(math.log10(value)) // 3, 5)
    return f"{value / 1000**power:.3g} {' kMGTP'[power]}{unit}".strip()
