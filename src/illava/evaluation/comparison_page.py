"""A comparison for people and for spreadsheets: the page with its verdict, the plots and the CSV file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..io.files import replacing
from ..io.texts import slug
from . import pareto
from .comparison import COSTS, OFF_BUDGET, TIMES, Figures, points_of
from .metrics import LEAST_PLAIN, LEVEL
from .rows import BLANK, PLAIN, TEXT_ONLY
from .store import write_json
from .summary import ESTIMATES, MEANS, escape, interval, number

PAGE, TABLE, FIGURES, PLOTS = "comparison.md", "comparison.csv", "comparison.json", "comparison"
QUALITY = "retained above blank, % of the plain model"
AXES = {"ttft": "time to the first token / plain, measured", "flops": "FLOPs up to the first token / plain"}
COLUMNS = ("accuracy %", "retained %", "above blank %", "final tokens", "average tokens", "FLOPs", "KV bytes")
FEW = 20
"""Pictures of a task; a bootstrap of fewer takes what it has not seen for impossible."""
SPREADS = (*ESTIMATES, *TIMES, "difference")
TESTS = ("p", "p_holm", "significant", "holds")


def write(folder: Path, found: Figures) -> str | None:
    """Write page, CSV, JSON and plots, each all at once. Returns None, or one line on missing plots."""
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    hint, drawn = None, []
    for model, figures in found["models"].items():
        for cost in COSTS:
            points = points_of(figures["rows"], cost)
            if len(points) > 1:
                name = plot_name(model, cost)
                axes = AXES[cost], QUALITY
                said = pareto.draw(points, folder / PLOTS / name, model, *axes, found["reference"])
                drawn += [] if said else [name]
                hint = hint or said
    write_json(folder / FIGURES, found)
    for name, text in ((TABLE, to_csv(found)), (PAGE, to_markdown(found, drawn))):
        with replacing(folder / name) as partial:
            # Bytes: line ends are the same everywhere.
            partial.write_bytes(text.encode())
    return hint


def plot_name(model: str, cost: str) -> str:
    """The file of one plot, e.g. "zoo-S-ttft.png"."""
    return f"{slug(model)}-{cost}.png"


def to_csv(found: Figures) -> str:
    """One line a model and row, numbers in full; empty where there is no figure."""
    fields = ["model", "row", "method", "budget", "keep", "refused"]
    for key in (*SPREADS[:3], *MEANS, "off_budget", *SPREADS[3:], *TESTS):
        fields += [key, f"{key}_low", f"{key}_high"] if key in SPREADS else [key]
    out = io.StringIO()
    table = csv.DictWriter(out, fields, lineterminator="\n")
    table.writeheader()
    for model, figures in found["models"].items():
        for row in figures["rows"]:
            cells = {"model": model, "row": row["label"]}
            for key in set(fields) & set(row):
                figure = row[key] if key in SPREADS else {"value": row[key]}
                cells |= {f"{key}_{end}".removesuffix("_value"): what for end, what in figure.items()}
            table.writerow(cells)
    return out.getvalue()


def to_markdown(found: Figures, plots: Sequence[str] = ()) -> str:
    """The page: the verdict first, then how it came about, then all figures, model by model."""
    lines = ["# Comparison of methods", "", *verdict(found), "", *_how(found)]
    for model, figures in found["models"].items():
        lines += [
            "",
            f"## {escape(model)}",
            "",
            *_circumstances(figures),
            "",
            *_table(figures, found["reference"]),
        ]
        for cost in COSTS:
            if plot_name(model, cost) in plots:
                lines += ["", f"![{_alt(model, figures, cost)}]({PLOTS}/{plot_name(model, cost)})"]
        lines += ["", "Accuracy in %, task by task (\\*: not in the means):", "", *_tasks(figures)]
    return "\n".join(lines) + "\n"


# -- in words --------------------------------------------------------------------------------------


def verdict(found: Figures) -> list[str]:
    """What the figures say, in words: first who is ahead of the reference, then the rest."""
    reference, made = f"*{found['reference']}*", found["comparisons"]
    lines = [
        "## Verdict",
        "",
        f"Mean accuracy over tasks against {reference} at the same budget, in points. Where significant,",
        f"with its {100 * LEVEL:g} % interval and \\*, or \\*\\* if it is after Holm's correction, too.",
    ]
    for model, figures in found["models"].items():
        if not any(task["in_mean"] for task in figures["tasks"].values()):
            least = f"{100 * LEAST_PLAIN:g} %"
            lines += ["", f"{escape(model)}: plain, it reaches {least} at no task, so nothing can be said."]
    for title, sign, significant in (
        (f"Ahead of {reference}, significantly", 1, True),
        (f"Ahead of {reference}, but not significantly", 1, False),
        (f"Behind {reference}, significantly", -1, True),
        (f"Behind {reference}, but not significantly", -1, False),
        (f"Level with {reference}", 0, False),
    ):
        lines += ["", f"**{title}:**", "", *_listed(found, sign, significant)]
    lines += ["", "**On the Pareto front**, where no other row costs less and retains more:", ""]
    for model, figures in found["models"].items():
        lines += [f"- {escape(model)}, {AXES[cost]}: {_front(figures, cost, found)}." for cost in COSTS]
    by_chance = (1 - LEVEL) * made["made"]
    return [
        *lines,
        "",
        f"**How much of this is chance.** {made['made']} comparisons were made. If no two methods differed",
        f"at all, about {by_chance:.1f} of them ({100 * (1 - LEVEL):.0f} %) would look significant anyway.",
        f"{made['significant']} do; after Holm's correction {made['hold']} do.",
    ]


def _listed(found: Figures, sign: int, significant: bool) -> list[str]:
    """A line a model: the rows whose difference to the reference has this sign and significance."""
    lines = []
    for model, figures in found["models"].items():
        rows = [row for row in figures["rows"] if row["p"] is not None]
        rows = [row for row in rows if _sign(row["difference"]["value"]) == sign]
        rows = [row for row in rows if row["significant"] == significant or not sign]
        rows.sort(key=lambda row: -abs(row["difference"]["value"]))
        if rows:
            told = (f"{_name(row)} {difference(row, short=not significant)}" for row in rows)
            lines.append(f"- {escape(model)}: {'; '.join(told)}.")
    return lines or ["- None."]


def _front(figures: Figures, cost: str, found: Figures) -> str:
    """Who is on a front, and how much of it is the reference's."""
    best = figures["fronts"][cost]
    if not best:
        return "not measured"
    ours = [row["label"] for row in figures["rows"] if row["method"] == found["reference"]]
    on = sum(label in best for label in ours)
    return f"{', '.join(map(escape, best))}; of *{found['reference']}* {on} of {len(ours)} rows"


def _how(found: Figures) -> list[str]:
    return f"""## How this was measured

Every row answers the same questions through the same code, in the same batches, greedily. *plain*: the model
as it is. *blank*: on grey pictures of the same sizes. *text only*: with all pictures and videos taken out of
the prompt. *above blank*: (accuracy - blank) / (plain - blank), of the means over tasks. *final*, *average
tokens*: visual tokens of a prompt after the last step and on average over the LLM's layers. FLOPs up to the
first token, KV bytes after prefill, and the times measured of encoder, prefill and first token (TTFT) are
shares of the plain model's: less is better. Brackets: 95 % intervals; of accuracies from a bootstrap of whole
pictures, the same draws for all rows, {found["draws"]} of them for differences, whose p-values are two-sided;
of times from the sign test over prompts. \u2020: the final tokens miss the budget by more than
{100 * OFF_BUDGET:g} %. -: there is no such figure.""".splitlines()


def _circumstances(figures: Figures) -> list[str]:
    settings, timing = figures["settings"], figures["timing"]
    counted = [escape(name) for name, task in figures["tasks"].items() if task["in_mean"]]
    left_out = [escape(name) for name, task in figures["tasks"].items() if not task["in_mean"]]
    lines = [
        f"{settings['dtype']} on {settings['device']}, split {settings['split']}, seed {settings['seed']},",
        f"at most {settings['limit']} questions a task, batches of {settings['batch_size']}, illava "
        f"{settings['illava']}.",
        f"Means are over {', '.join(counted) or 'no task'}, each weighing the same.",
    ]
    if left_out:
        lines.append(f"Left out of them, below {100 * LEAST_PLAIN:g} % plain: {', '.join(left_out)}.")
    if any(task["pictures"] < FEW for task in figures["tasks"].values() if task["in_mean"]):
        lines.append(
            f"**Some tasks have fewer than {FEW} pictures: their intervals and tests promise too much.**"
        )
    if timing is not None:
        count, threads = len(timing["prompts"]), timing["threads"]
        lines.append(
            f"Times: medians of {count} prompts, one at a time, all rows in turn, threads: {threads}."
        )
        if (place := timing.get("machine")) is not None:
            lines.append(f"On {place['cpu']}, torch {place['torch']}, transformers {place['transformers']}.")
    return lines


def _alt(model: str, figures: Figures, cost: str) -> str:
    points = {point.label: point for point in points_of(figures["rows"], cost)}
    best = (
        f"{label} ({points[label].cost:.2f}, {points[label].quality:.1f})"
        for label in figures["fronts"][cost]
    )
    text = (
        f"{model}: {QUALITY}, against {AXES[cost]}, of {len(points)} rows. "
        f"On the front, from the cheapest: {', '.join(best)}."
    )
    return escape(re.sub(r"[\[\]]", "", text))


# -- tables ----------------------------------------------------------------------------------------


def _table(figures: Figures, reference: str) -> list[str]:
    head = [*COLUMNS, "encoder", "prefill", "TTFT", f"points against {escape(reference)}"]
    lines = ["| row | " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(head)]
    for row in ordered(figures["rows"]):
        if row["refused"] is not None:
            cells = [f"not run: {escape(row['refused'])}", *["-"] * (len(head) - 1)]
        else:
            cells = [interval(row[key]) for key in ESTIMATES]
            cells.append(number(row["final_tokens"], ".1f") + (" \u2020" if row["off_budget"] else ""))
            cells.append(number(row["average_tokens"], ".1f"))
            cells += [number(row[key], ".3f") for key in ("flops", "kv_bytes")]
            cells += [share(row[part]) for part in TIMES]
            cells.append("-" if row["p"] is None else difference(row))
        lines.append(f"| {_name(row)} | " + " | ".join(cells) + " |")
    return lines


def _tasks(figures: Figures) -> list[str]:
    names = [f"{escape(name)}{'' if task['in_mean'] else ' *'}" for name, task in figures["tasks"].items()]
    lines = ["| row | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for row in ordered(figures["rows"]):
        cells = (number(row["tasks"].get(name), ".1f") for name in figures["tasks"])
        lines.append(f"| {_name(row)} | " + " | ".join(cells) + " |")
    return lines


def ordered(rows: Iterable[Figures]) -> list[Figures]:
    """Rows as tables list them: the plain model's, then the largest budget first, and in it the best."""

    def place(row: Figures) -> tuple[float, ...]:
        if row["options"] is None:
            return (0, [PLAIN.label, BLANK.label, TEXT_ONLY.label].index(row["label"]))
        kept = row["above_blank"]["value"]
        # Schedules of their own and what has no figure come last.
        return (1, -(row["keep"] or 0), kept is None, -(kept or 0))

    return sorted(rows, key=place)


def _name(row: Figures) -> str:
    return escape(row["label"])


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def difference(row: Figures, short: bool = False) -> str:
    """Points that a row is ahead of the reference, with interval, unless ``short``, and marks."""
    figure = row["difference"]
    interval = "" if short else f" ({figure['low']:+.1f} to {figure['high']:+.1f})"
    mark = " \\*\\*" if row["holds"] else " \\*" if row["significant"] else ""
    return f"{figure['value']:+.1f}{interval}{mark}"


def share(figure: Figures) -> str:
    """A share of the plain model's time, with its interval."""
    if figure["low"] is None:
        return number(figure["value"], ".2f")
    return f"{figure['value']:.2f} ({figure['low']:.2f}-{figure['high']:.2f})"
