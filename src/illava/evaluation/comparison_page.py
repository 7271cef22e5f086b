"""A comparison for people and for spreadsheets: the page with its verdict, the plots and the CSV file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..io.files import replacing
from ..io.texts import slug
from . import equal_time_page, pareto
from .comparison import OFF_BUDGET, TIMES, Figures, column, costs, points_of
from .metrics import LEAST_PLAIN
from .rows import BLANK, PLAIN, TEXT_ONLY
from .store import write_json
from .summary import ESTIMATES, MEANS, escape, interval, number, table
from .verdict import AXES, best_by_task, mark, over, verdict

PAGE, TABLE, FIGURES, PLOTS = "comparison.md", "comparison.csv", "comparison.json", "comparison"
QUALITY = "retained above blank, % of the plain model"
FEW = 20
"""Pictures of a task; a bootstrap of fewer takes what it has not seen for impossible."""
MOST_METHODS = 20
"""Methods in a table; the CSV file has all."""
OWN_SCHEDULE = "own schedule"
"""The column of methods that were saved with a schedule, and take no budget."""
SPREADS = (*ESTIMATES, *TIMES, "difference")
TESTS = ("p", "p_holm", "significant", "holds")


def write(folder: Path, found: Figures) -> str | None:
    """Write page, CSV, JSON and plots, each all at once. Returns None, or one line on missing plots."""
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    drawn, hint = draw(folder / PLOTS, found)
    write_json(folder / FIGURES, found)
    for name, text in ((TABLE, to_csv(found)), (PAGE, to_markdown(found, drawn))):
        with replacing(folder / name) as partial:
            # Bytes: line ends are the same everywhere.
            partial.write_bytes(text.encode())
    return hint


def draw(folder: Path, found: Figures) -> tuple[list[str], str | None]:
    """Draw quality against each cost. Returns the names of the files, and one line where one is missing."""
    hint, drawn = None, []
    for model, figures in found["models"].items():
        for cost in costs(figures.get("clock")):
            points = points_of(figures["rows"], cost)
            if len(points) > 1:
                name = plot_name(model, cost)
                axes = AXES[cost], QUALITY
                missing = pareto.draw(points, folder / name, model, *axes, found["reference"])
                drawn += [] if missing else [name]
                hint = hint or missing
    return drawn, hint


def plot_name(model: str, cost: str) -> str:
    """The file of one plot, e.g. "zoo-S-ttft.png"."""
    return f"{slug(model)}-{cost}.png"


def to_csv(found: Figures) -> str:
    """One line a model and row, numbers in full, accuracies by task last; empty where there is no figure."""
    fields = ["model", "row", "method", "budget", "keep", "refused"]
    fields += ["target", "ends", "expected", "missed"] if found.get("targets") else []
    for key in (*SPREADS[:3], *MEANS, "off_budget", *SPREADS[3:], *TESTS):
        fields += [key, f"{key}_low", f"{key}_high"] if key in SPREADS else [key]
    tasks = dict.fromkeys(name for figures in found["models"].values() for name in figures["tasks"])
    groups = dict.fromkeys(name for figures in found["models"].values() for name in figures.get("groups", ()))
    out = io.StringIO()
    columns = [*fields, *map(_group_column, groups), *map(_task_column, tasks)]
    lines = csv.DictWriter(out, columns, lineterminator="\n")
    lines.writeheader()
    for model, figures in found["models"].items():
        for row in figures["rows"]:
            cells = {"model": model, "row": row["label"]}
            for key in set(fields) & set(row):
                figure = row[key] if key in SPREADS else {"value": row[key]}
                cells |= {f"{key}_{end}".removesuffix("_value"): what for end, what in figure.items()}
            cells |= {_group_column(name): kept["value"] for name, kept in row.get("groups", {}).items()}
            cells |= {_task_column(name): accuracy for name, accuracy in row["tasks"].items()}
            lines.writerow(cells)
    return out.getvalue()


def _group_column(name: str) -> str:
    return f"above_blank: {name} tasks"


def _task_column(name: str) -> str:
    return f"accuracy: {name}"


def to_markdown(found: Figures, plots: Sequence[str] = ()) -> str:
    """The page: the verdict, a summary of each model, and how it was measured."""
    equal_time = bool(found.get("targets"))
    lines = ["# Comparison of methods", ""]
    lines += [*equal_time_page.best(found), ""] if equal_time else []
    lines += verdict(found)
    for model, figures in found["models"].items():
        lines += ["", f"## {escape(model)}", ""]
        if equal_time:
            sections = equal_time_page.sections(found, figures)
            lines += [*sections, "", _accuracies(figures), *_refusals(figures)]
        else:
            lines += _methods(found, figures)
        for cost in costs(figures.get("clock")):
            if plot_name(model, cost) in plots:
                alt = escape(re.sub(r"[\[\]]", "", f"{model}: {QUALITY}, against {AXES[cost]}"))
                lines += ["", f"![{alt}]({PLOTS}/{plot_name(model, cost)})"]
        lines += ["", *_tasks(found, figures), "", *_settings(figures)]
    how = equal_time_page.how(found) if equal_time else _how(found)
    return "\n".join([*lines, "", *how]) + "\n"


# -- one model -------------------------------------------------------------------------------------


def _methods(found: Figures, figures: Figures) -> list[str]:
    """A line a method, the best first: what it retains at each budget, and what it costs."""
    reference = found["reference"]
    rows = [row for row in figures["rows"] if row["options"] is not None]
    budgets = {row["keep"]: row["budget"] or OWN_SCHEDULE for row in rows}
    budgets = {keep: budgets[keep] for keep in sorted(budgets, key=lambda keep: -(keep or 0))}
    methods: dict[str, dict[float | None, Figures]] = {}
    for row in rows:
        methods.setdefault(row["method"], {})[row["keep"]] = row

    def place(name: str) -> float:
        kept = [row["above_blank"]["value"] for row in methods[name].values()]
        kept = [value for value in kept if value is not None]
        return -sum(kept) / len(kept) if kept else float("inf")

    ranked = sorted(methods, key=place)
    shown = [name for i, name in enumerate(ranked) if i < MOST_METHODS or name == reference]
    lines = table(
        ["method", *budgets.values(), "FLOPs", *TIMES[:-1], "first token"],
        (
            [
                escape(name),
                *(_retained(methods[name].get(keep)) for keep in budgets),
                *(_range(methods[name].values(), cost) for cost in ("flops", *TIMES)),
            ]
            for name in shown
        ),
    )
    lines += ["", _accuracies(figures)]
    if len(shown) < len(ranked):
        lines.append(f"{len(ranked) - len(shown)} more methods are in `{TABLE}`.")
    return [*lines, *_refusals(figures)]


def _accuracies(figures: Figures) -> str:
    """The accuracy of the rows without a method, in a sentence."""
    plain = {row["label"]: row for row in figures["rows"] if row["options"] is None}
    about = [
        f"{label} {interval(plain[label]['accuracy'])} %"
        for label in (PLAIN.label, BLANK.label, TEXT_ONLY.label)
        if label in plain
    ]
    return f"Accuracy: {', '.join(about)}."


def _refusals(figures: Figures) -> list[str]:
    """The rows that could not run, and why."""
    refused: dict[str, list[str]] = {}
    for row in figures["rows"]:
        if row["refused"] is not None:
            refused.setdefault(row["refused"], []).append(row["label"])
    if refused:
        cells = ([escape(", ".join(labels)), escape(reason)] for reason, labels in refused.items())
        return ["", *table(["not run", "reason"], cells, 2)]
    return []


def _retained(row: Figures | None) -> str:
    """Accuracy retained above blank, with marks for its test against the reference and for its budget."""
    if row is None:
        return ""
    if row["refused"] is not None:
        return "not run"
    return number(row["above_blank"]["value"], ".1f") + (" \u2020" if row["off_budget"] else "") + mark(row)


def _range(rows: Iterable[Figures], cost: str) -> str:
    """Lowest and highest share of the plain model's cost over the budgets."""
    values = [row[cost] if cost == "flops" else row[cost]["value"] for row in rows]
    values = [value for value in values if value is not None]
    ends = dict.fromkeys(f"{end:.2f}" for end in (min(values), max(values))) if values else ["-"]
    return "-".join(ends)


def _tasks(found: Figures, figures: Figures) -> list[str]:
    reference = found["reference"]
    plain = next(row for row in figures["rows"] if row["label"] == PLAIN.label)
    lines = []
    for name, (ours, best, value) in best_by_task(figures, reference).items():
        excluded = "" if figures["tasks"][name]["in_mean"] else " \\*"
        other = "-" if best is None else f"{value:.1f} ({escape(best)})"
        lines.append(
            [escape(name) + excluded, number(plain["tasks"][name], ".1f"), number(ours, ".1f"), other]
        )
    head = [f"accuracy %, mean over {over(found)}", PLAIN.label, escape(reference), "best other method"]
    return table(head, lines)


def _settings(figures: Figures) -> list[str]:
    settings, timing = figures["settings"], figures["timing"]
    left_out = [escape(name) for name, task in figures["tasks"].items() if not task["in_mean"]]
    lines = [
        f"{settings['dtype']} on {settings['device']}, split {settings['split']}, seed {settings['seed']}, "
        f"at most {settings['limit']} questions a task, batches of {settings['batch_size']}, illava "
        f"{settings['illava']}."
    ]
    if left_out:
        lines.append(f"\\*: not in the means, as plain is below {100 * LEAST_PLAIN:g} %.")
    if any(task["pictures"] < FEW for task in figures["tasks"].values() if task["in_mean"]):
        lines.append(
            f"**Some tasks have fewer than {FEW} pictures: their intervals and tests promise too much.**"
        )
    if timing is not None:
        count, threads = len(timing["prompts"]), timing["threads"]
        fastest = f", the fastest of {turns} runs of each" if (turns := timing.get("turns") or 1) > 1 else ""
        # Files of earlier versions name no dtype.
        kind = f", in {timing['dtype']}" if timing.get("dtype") else ""
        lines.append(
            f"Times: medians of {count} prompts, one at a time, rows in turn{fastest}, threads: {threads}"
            f"{kind}."
        )
        if (place := timing.get("machine")) is not None:
            lines.append(f"On {place['cpu']}, torch {place['torch']}, transformers {place['transformers']}.")
    return lines


def _how(found: Figures) -> list[str]:
    return f"""## How this was measured

All rows answer the same questions in the same batches, greedily. *blank*: the plain model on grey pictures;
*text only*: without pictures. Columns of budgets: accuracy retained above blank, in %: (accuracy - blank) /
(plain - blank) of the means over tasks. \\*: significantly different from the reference at that budget;
\\*\\*: after Holm's correction, too (paired bootstrap by picture, {found["draws"]} draws, two-sided).
\u2020: the final tokens miss the budget by more than {100 * OFF_BUDGET:g} %. Costs: shares of the plain
model's, lowest to highest over budgets; FLOPs are those up to the first token; encoder, prefill and first
token are measured times. `{TABLE}` has every row, with 95 % intervals, tokens, KV bytes and accuracy by
task.""".splitlines()


def ordered(rows: Iterable[Figures]) -> list[Figures]:
    """Rows as tables list them: the plain model's, then the largest budget first, and in it the best.

    At equal time the smallest speed-up comes first; rows where methods end come last.
    """

    rows = list(rows)
    equal_time = any(row.get("target") is not None for row in rows)

    def place(row: Figures) -> tuple[float, ...]:
        if row["options"] is None:
            return (0, [PLAIN.label, BLANK.label, TEXT_ONLY.label].index(row["label"]))
        kept = row["above_blank"]["value"]
        # Schedules of their own and rows without a figure come last.
        at = column(row)
        last = float("inf")
        first = last if at is None else at if equal_time else -at
        return (1, first, kept is None, -(kept or 0))

    return sorted(rows, key=place)
