"""The summary of a run, as JSON and Markdown; the same answers give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..io.files import replacing
from .metrics import (
    LEAST_PLAIN,
    Array,
    Resamples,
    estimate,
    mean_over_tasks,
    resample,
    retained,
    retained_above_blank,
)
from .rows import BLANK, PLAIN
from .store import Line, write_json

ESTIMATES = ("accuracy", "retained", "above_blank")
MEANS = ("agrees", "kl", "visual_tokens", "final_tokens", "average_tokens", "kv_bytes", "flops")
"""Fields of the answers file that are averaged over samples."""

Summary = dict[str, Any]


def summarise(settings: Summary, lines: Iterable[Line], timing: Summary | None = None) -> Summary:
    """All results of a run, by task and row, and by row over tasks.

    Only samples that every row has answered count, so that the rows of an unfinished run are comparable.
    Intervals are 95 % bootstrap intervals, clustered by image and paired.
    """
    tasks: dict[str, Summary] = {}
    means: dict[str, dict[str, list[Array]]] = {label: {} for label in settings["rows"]}
    by_task: dict[str, list[Line]] = {name: [] for name in settings["tasks"]}
    for line in lines:
        by_task.get(line["task"], []).append(line)
    for name, some in by_task.items():
        table = shared_lines(some, settings["rows"])
        samples = next(iter(table.values()), [])
        drawn = resample(
            [line["cluster"] or f"#{line['sample']}" for line in samples], settings["seed"], name
        )
        right = {label: drawn.mean([line["correct"] for line in row]) for label, row in table.items()}
        plain = right[PLAIN.label]
        counts = bool(plain[0] >= LEAST_PLAIN)
        tasks[name] = {
            "samples": len(samples),
            "pictures": drawn.weights.shape[1],
            "small_samples": sum(line["small"] for line in samples),
            "in_mean": counts,
            "rows": {},
        }
        for label, row in table.items():
            statistics = _statistics(right[label], plain, right[BLANK.label])
            tasks[name]["rows"][label] = {**_figures(statistics, row, drawn), **_breakdown(row)}
            if counts:
                for key, statistic in {**statistics, **_more(row, drawn)}.items():
                    means[label].setdefault(key, []).append(statistic)
    overall = {label: _overall(means, label) for label in means}
    return {"settings": settings, "tasks": tasks, "mean": overall, "timing": timing}


def shared_lines(lines: Sequence[Line], labels: Iterable[str]) -> dict[str, list[Line]]:
    """The lines of each row for the samples that all rows have answered, ordered by sample."""
    rows: dict[str, dict[int, Line]] = {label: {} for label in labels}
    for line in lines:
        if line["row"] in rows:
            rows[line["row"]].setdefault(line["sample"], line)
    shared = sorted(set.intersection(*(set(row) for row in rows.values())))
    return {label: [row[number] for number in shared] for label, row in rows.items()}


def _statistics(accuracy: Array, plain: Array, blank: Array) -> dict[str, Array]:
    return {
        "accuracy": 100 * accuracy,
        "retained": retained(accuracy, plain),
        "above_blank": retained_above_blank(accuracy, plain, blank),
    }


def _more(lines: Sequence[Line], drawn: Resamples) -> dict[str, Array]:
    numbers = {key: [float("nan") if line[key] is None else line[key] for line in lines] for key in MEANS}
    return {key: drawn.mean(values) for key, values in numbers.items()}


def _figures(statistics: dict[str, Array], lines: Sequence[Line], drawn: Resamples) -> Summary:
    figures: Summary = {key: estimate(statistics[key]).to_dict() for key in ESTIMATES}
    return figures | {key: estimate(value[:1]).value for key, value in _more(lines, drawn).items()}


def _overall(means: dict[str, dict[str, list[Array]]], label: str) -> Summary:
    """Means over tasks; ``above_blank`` is computed from the mean accuracies.

    The mean of the tasks' ratios would be dominated by the noise of tasks that can be answered by guessing.
    """
    collected = means[label]
    accuracy, plain, blank = (
        mean_over_tasks(means[row].get("accuracy", [])) for row in (label, PLAIN.label, BLANK.label)
    )
    figures: Summary = {key: estimate(mean_over_tasks(collected.get(key, []))).to_dict() for key in ESTIMATES}
    figures["above_blank"] = estimate(retained_above_blank(accuracy, plain, blank)).to_dict()
    return figures | {key: estimate(mean_over_tasks(collected.get(key, []))[:1]).value for key in MEANS}


def _breakdown(lines: Sequence[Line]) -> Summary:
    """Accuracy by kind of question, and where the answer depends on a small object."""
    kinds: dict[str, list[bool]] = {}
    for line in lines:
        kinds.setdefault(line["kind"], []).append(line["correct"])
    small = [line["correct"] for line in lines if line["small"]]
    return {
        "kinds": {kind: _share(kinds[kind]) for kind in sorted(kinds) if kind},
        "small": _share(small) if small else None,
    }


def _share(right: Sequence[bool]) -> Summary:
    return {"samples": len(right), "accuracy": 100 * sum(right) / len(right)}


# -- Markdown --------------------------------------------------------------------------------------

COLUMNS = {
    "accuracy": "accuracy %",
    "retained": "retained %",
    "above_blank": "retained above blank %",
    "agrees": "agrees with plain %",
    "kl": "KL, first token",
    "final_tokens": "final tokens",
    "average_tokens": "average tokens",
    "kv_bytes": "KV bytes / plain",
    "flops": "FLOPs / plain",
}
TIMES = {"encoder": "encoder", "prefill": "prefill", "total": "end to end"}


def to_markdown(summary: Summary) -> str:
    """The summary as Markdown: the mean over tasks, then each task."""
    settings, timing = summary["settings"], summary["timing"]
    lines = [
        f"# Evaluation of {settings['model']}",
        "",
        f"{settings['dtype']} on {settings['device']}, split {settings['split']}, seed {settings['seed']}, "
        f"at most {settings['limit']} samples per task, batch size {settings['batch_size']}. Parentheses: "
        "95 % bootstrap intervals, clustered by image and paired with the plain model. *blank*: the plain "
        "model on grey images; *above blank*: (accuracy - blank) / (plain - blank).",
        "",
        "## Mean over tasks",
        "",
    ]
    left_out = [name for name, task in summary["tasks"].items() if not task["in_mean"]]
    counted = [name for name in summary["tasks"] if name not in left_out]
    lines.append(f"Unweighted mean of: {', '.join(counted) or 'none'}.")
    if left_out:
        lines.append(f"Excluded, plain accuracy below {100 * LEAST_PLAIN:g} %: {', '.join(left_out)}.")
    lines += ["", *_markdown_table(summary["mean"]), ""]
    if timing is not None:
        lines += [
            "## Speed-up over plain",
            "",
            f"Median (range) of {len(timing['prompts'])} prompts, batch size 1, rows in turn, "
            f"equal answer lengths, {timing['threads']} threads.",
            "",
        ]
        rows = timing["rows"].items()
        lines += table(
            ["row", *TIMES.values()],
            ([label, *(_range(figures["faster"][part]) for part in TIMES)] for label, figures in rows),
        )
        lines.append("")
    for name, task in summary["tasks"].items():
        mark = "" if task["in_mean"] else " (not in the mean)"
        lines += [
            f"## {escape(name)}{mark}",
            "",
            f"{task['samples']} samples, {task['pictures']} images.",
            "",
        ]
        lines += [*_markdown_table(task["rows"]), ""]
    return "\n".join(lines)


def _markdown_table(rows: dict[str, Summary]) -> list[str]:
    out = []
    for label, figures in rows.items():
        cells = [interval(figures[key]) for key in ESTIMATES]
        cells += [number(figures["agrees"], ".1f", 100), number(figures["kl"], ".3f")]
        cells += [number(figures[key], ".1f") for key in ("final_tokens", "average_tokens")]
        cells += [number(figures[key], ".3f") for key in ("kv_bytes", "flops")]
        out.append([label, *cells])
    return table(["row", *COLUMNS.values()], out)


def number(value: float | None, form: str, factor: float = 1) -> str:
    """Format a number for a table: "-" if there is none."""
    return "-" if value is None or value != value else format(factor * value, form)


def interval(figure: Summary) -> str:
    """Format an estimate for a table, e.g. "98.3 (97.1-99.2)"."""
    if figure["value"] is None or figure["low"] is None:
        return number(figure["value"], ".1f")
    between = " to " if figure["low"] < 0 else "-"
    return f"{figure['value']:.1f} ({figure['low']:.1f}{between}{figure['high']:.1f})"


def _range(figure: Summary) -> str:
    if figure["median"] is None or figure["median"] != figure["median"]:
        return "-"
    return f"{figure['median']:.2f} ({figure['low']:.2f}-{figure['high']:.2f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """The lines of a Markdown table; all columns but the first ``left`` are numbers."""
    ruler = ["---"] * left + ["---:"] * (len(head) - left)
    return [f"| {' | '.join(cells)} |" for cells in (head, ruler, *rows)]


def escape(name: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return " ".join(name.split()).replace("|", "\\|")


def write_summary(folder: Path, summary: Summary) -> None:
    """Write ``summary.json`` and ``summary.md``, both atomically."""
    write_json(folder / "summary.json", summary)
    with replacing(folder / "summary.md") as partial:
        partial.write_text(to_markdown(summary), encoding="utf-8")
