"""The part of a comparison's page that differs at equal time: a table a speed-up, the best method first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from ..planning.equal_time import LEAST, TOLERANCE
from .comparison import Figures, column
from .rows import budget
from .summary import escape, interval, number, table
from .verdict import difference

MISSED = " \u2021"
GROUPS = {"text": "text tasks", "where": "position tasks"}
"""Group of tasks -> the heading of its column."""


def best(found: Figures) -> list[str]:
    """The best method at each speed-up of each model, whichever it is, and in each group of tasks."""
    lines = []
    for model, figures in found["models"].items():
        for target in found["targets"]:
            # A row that is faster than requested gives something away, one that is slower gains.
            late = [row for row in _at(figures, target) if row["missed"] and _speedup(figures, row) < target]
            rows = [row for row in _at(figures, target) if row not in late]
            named = [_named("", rows, lambda row: row["above_blank"])]
            named += [
                _named(f"{heading(group)}: ", rows, lambda row, group=group: row["groups"].get(group))  # type: ignore[misc]
                for group in figures["groups"]
            ]
            text = "; ".join(filter(None, named)) or "none"
            if late:
                text += f" (too slow to count: {', '.join(escape(row['method']) for row in late)})"
            lines.append(f"- **Best at {target:g}x, {escape(model)}:** {text}.")
    return ["Accuracy retained above blank, in %:", "", *lines]


def _speedup(figures: Figures, row: Figures) -> float:
    """The speed-up that counts: predicted on the clock, or measured."""
    speedup: float = row["expected"] if figures["clock"] is not None else 1 / row["ttft"]["value"]
    return speedup


def _named(start: str, rows: Iterable[Figures], figure_of) -> str:  # type: ignore[no-untyped-def]
    able = [row for row in rows if (figure_of(row) or {}).get("value") is not None]
    if not able:
        return ""
    first = max(figure_of(row)["value"] for row in able)
    # Equal ones share the first place.
    names = [escape(row["method"]) for row in able if figure_of(row)["value"] == first]
    figure = next(figure_of(row) for row in able if figure_of(row)["value"] == first)
    return f"{start}{' and '.join(names)} {interval(figure)}"


def heading(group: str) -> str:
    """The heading of a group's column."""
    return GROUPS.get(group, group)


def sections(found: Figures, figures: Figures) -> list[str]:
    """A table for each speed-up, one for methods that end earlier, and one for schedules of their own."""
    lines: list[str] = []
    clock = figures["clock"]
    for target in found["targets"]:
        rows = _at(figures, target)
        on = f", as predicted on {clock}" if clock else ""
        lines += [f"### {target:g}x to the first token{on}", ""]
        lines += [*_table(figures, rows, found["reference"]), ""] if rows else ["No method gets there.", ""]
    ends = [row for row in _answered(figures) if row["ends"]]
    if ends:
        ends.sort(key=lambda row: -(row["expected"] or 0))
        lines += ["### Where methods end", ""]
        lines += [f"At {budget(LEAST)} of the tokens, the smallest budget tried.", ""]
        lines += [*_table(figures, ends, None), ""]
    saved = [row for row in _answered(figures) if row["target"] is None and row["options"] is not None]
    if saved:
        lines += ["### Schedules of their own", "", *_table(figures, saved, None), ""]
    return lines[:-1]


def _answered(figures: Figures) -> list[Figures]:
    return [row for row in figures["rows"] if row["refused"] is None]


def _at(figures: Figures, target: float) -> list[Figures]:
    """The rows at a speed-up, the best first."""
    rows = [row for row in _answered(figures) if row["target"] is not None and column(row) == target]
    return sorted(rows, key=lambda row: -(row["above_blank"]["value"] or 0))


def _table(figures: Figures, rows: Sequence[Figures], reference: str | None) -> list[str]:
    clock = figures["clock"]
    head = ["method", "all tasks", *map(heading, figures["groups"])]
    head += [] if reference is None else [f"points against {escape(reference)}"]
    head += [] if clock is None else [f"{clock}, predicted"]
    head += ["first token, measured", "budget"]
    return table(head, ([escape(row["method"]), *_cells(figures, row, reference)] for row in rows))


def _cells(figures: Figures, row: Figures, reference: str | None) -> list[str]:
    cells = [interval(row["above_blank"])]
    cells += [interval(row["groups"].get(group, {"value": None, "low": None})) for group in figures["groups"]]
    if reference is not None:
        cells.append("-" if row["p"] is None else difference(row))
    speedups = [_measured(row)]
    if figures["clock"] is not None:
        speedups.insert(0, "-" if row["expected"] is None else f"{row['expected']:.2f}x")
    # The mark belongs to the time that counts.
    speedups[0] += MISSED if row["missed"] else ""
    return [*cells, *speedups, "" if row["keep"] is None else number(row["keep"], ".3g")]


def _measured(row: Figures) -> str:
    """The measured speed-up, with its interval if there is one."""
    ttft = row["ttft"]
    if ttft["value"] is None:
        return "-"
    ends = "" if not ttft["low"] or not ttft["high"] else f" ({1 / ttft['high']:.2f}-{1 / ttft['low']:.2f})"
    return f"{1 / ttft['value']:.2f}x{ends}"


def how(found: Figures) -> list[str]:
    """How it was measured."""
    clocks = sorted({figures["clock"] for figures in found["models"].values() if figures["clock"]})
    chosen = (
        f"predicted on {', '.join(clocks)} for the same schedule, at the same relative depths and with the "
        "same shares, and one image of 672 x 672 pixels"
        if clocks
        else "measured in turn with the plain model's, or only predicted where the tables have no times"
    )
    text = f"""All rows answer the same questions in the same batches, greedily. *blank*: the plain model on
grey pictures; *text only*: without pictures. Percentages: accuracy retained above blank, (accuracy - blank) /
(plain - blank) of the means over tasks, with 95 % intervals (bootstrap by picture, paired). Each method's
budget, final visual tokens / all, was chosen so that its speed-up to the first token meets the heading:
{chosen}.
{MISSED}: it misses it by more than {100 * TOLERANCE:g} %; if it is slower, it cannot be the best. Points:
the difference to the reference in the same table. \\*: significant; \\*\\*: after Holm's correction, too
({found["draws"]} draws, two-sided). Budgets are in `budgets.json` of each model's folder."""
    return ["## How this was measured", "", *textwrap.wrap(text, 110)]
