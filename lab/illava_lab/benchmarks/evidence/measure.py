"""Measure the evidence: ``python -m illava_lab.benchmarks.evidence.measure choose|test SIZE`` and ``bigger``.

Answers go to runs/evidence, figures to docs/evidence. ``choose`` and ``test`` go on where they were stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from illava.ask import load
from illava.bench.machine import machine
from illava.evaluation.compare import difference
from illava.evaluation.rows import BLANK, PLAIN, Row, describe, fingerprint
from illava.evaluation.run import run
from illava.evaluation.store import Line, Store, write_json
from illava.evaluation.summary import summarise
from illava.io.pictures import InputError
from illava_lab import tasks as registry
from illava_lab.benchmarks.evidence import bigger as contest
from illava_lab.benchmarks.evidence import pictures
from illava_lab.benchmarks.evidence import rows as choosing

RUNS, FIGURES = Path("runs/evidence"), Path("docs/evidence")
PLACE = ("cpu", "float32")
NEW_TOKENS = 8
HURT = 5


def ask_all(
    name: str,
    model: nn.Module,
    processor: Any,
    rows: list[Row],
    folder: Path,
    options: dict[str, Any],
    tasks: list[str],
) -> tuple[dict[str, Any], list[Line]]:
    """Answer every task in every row, a folder a task; returns settings and answers of all tasks."""
    settings: dict[str, Any] = {}
    lines: list[Line] = []
    for task_name in tasks:
        task = registry.load(task_name, split=options["split"], seed=options["seed"])
        with Store(folder / task_name, describe(name, model, [task], rows, **options)) as store:
            run(model, processor, [task], rows, store, options["limit"], options["batch_size"], NEW_TOKENS)
            lines += store.lines
            known = settings.get("tasks", {})
            settings = {**store.settings, "tasks": {**known, **store.settings["tasks"]}}
        print(f"{folder}: {task_name} done", flush=True)
    return settings, lines


def choose(size: str, limit: int) -> None:
    """Choose layers and split on the validation split by the rule, and write them down."""
    name = f"zoo/{size}"
    model, processor = load(name, *PLACE)
    options = {"limit": limit, "seed": 0, "split": "val", "batch_size": 12, "max_new_tokens": NEW_TOKENS}
    choice: choosing.Choice = {}
    found: dict[str, Any] = {}
    for stage in ("encoder", "llm", "both"):
        offered = choosing.candidates(stage, choice)
        rows = [
            Row(label, method, choosing.BUDGETS[choosing.CHOSEN_AT]) for label, (_, method) in offered.items()
        ]
        settings, lines = ask_all(
            name, model, processor, rows, RUNS / f"val-{size}" / stage, options, list(registry.names())
        )
        summary = summarise(settings, lines)
        mean = summary["mean"]
        counted = [task for task, entry in summary["tasks"].items() if entry["in_mean"]]
        if mean[PLAIN.label]["above_blank"]["value"] is None:
            raise InputError(f"{name} has learnt no task well enough to choose layers by")
        figures = {
            label: {
                "above_blank": mean[label]["above_blank"]["value"],
                "flops": mean[label]["flops"],
                "average": mean[label]["average_tokens"] / mean[PLAIN.label]["average_tokens"],
            }
            for label in offered
        }
        best = choosing.pick(stage, figures)
        choice |= offered[best][0]
        found[stage] = {"figures": figures, "chosen": best}
        print(stage, best, figures[best], flush=True)
    path = FIGURES / f"layers-{size}.json"
    weights = fingerprint(model)
    if path.exists():
        frozen = read(f"layers-{size}")
        if frozen["weights"] == weights and frozen["choice"] != choice:
            raise InputError(f"{path} is frozen with another choice; move it away to choose anew")
    written = {"model": name, "weights": weights, "rule": choosing.RULE, **options}
    write_json(path, {**written, "tasks": counted, "choice": choice, "stages": found})


def read(name: str) -> dict[str, Any]:
    """A result file. Raises InputError where it is not there yet."""
    path = FIGURES / f"{name}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing: it is measured first, see make evidence-runs") from None
    return found


def test(size: str, limit: int, tasks: list[str]) -> None:
    """Answer the test split in all rows; where all tasks are there, write the figures."""
    name, known = f"zoo/{size}", read(f"layers-{size}")
    choice: choosing.Choice = known["choice"]
    model, processor = load(name, *PLACE)
    if fingerprint(model) != known["weights"]:
        raise InputError(f"layers-{size}.json is about other weights of {name}: run choose {size} again")
    rows = [*choosing.main_rows(choice), *choosing.control_rows(choice)]
    options = {"limit": limit, "seed": 0, "split": "test", "batch_size": 12, "max_new_tokens": NEW_TOKENS}
    settings, lines = ask_all(name, model, processor, rows, RUNS / f"test-{size}", options, tasks)
    if set(tasks) != set(registry.names()):
        return
    summary = summarise(settings, lines)
    del summary["timing"]
    summary["machine"] = machine()
    summary["differences"] = differences(lines)
    summary["hurt"] = [entry for entry in hurt_kinds(lines)[:HURT] if entry["lost"] > 0]
    for stale in FIGURES.glob("hurt-*.png") if size == "L" else ():
        stale.unlink()
    keep = choosing.BUDGETS[choosing.CHOSEN_AT]
    for entry in summary["hurt"]:
        if entry["examples"] and size == "L":
            entry["picture"] = pictures.draw(model, processor, entry, choosing.both(keep, choice), FIGURES)
    write_json(FIGURES / f"test-{size}.json", summary)


def bigger(each: int) -> None:
    """Let the two models compete and write the figures."""
    choices = {size: read(f"layers-{size}")["choice"] for size in ("S", "L")}
    models = {size: load(f"zoo/{size}", *PLACE) for size in choices}
    entered = contest.contestants(choices)
    lines = contest.compete(models, entered, contest.drawn_samples(each))
    known = [read(f"test-{size}")["tasks"] for size in choices]
    counted = [name for name in registry.names() if all(tasks[name]["in_mean"] for tasks in known)]
    figures = {
        "machine": machine(),
        "weights": {size: fingerprint(model) for size, (model, _) in models.items()},
        "each": each,
        "tasks": counted,
        "contestants": contest.results(lines, counted),
        "all_tasks": contest.results(lines, registry.names()),
    }
    write_json(FIGURES / "bigger.json", figures)
    print(json.dumps(figures["contestants"], indent=1))


def differences(lines: list[Line]) -> dict[str, Any]:
    """Points of accuracy: recycling minus each control, all else equal; published schedule minus plain."""
    out: dict[str, Any] = {}
    for name in ("1/3", "1/9"):
        controls = {other: [f"{other} {name}"] for other in ("drop", "weighted", "inverse")}
        controls["random"] = [f"random {seed} {name}" for seed in choosing.RANDOM_SEEDS]
        for other, labels in controls.items():
            mean, by_task = difference(lines, [f"both {name}"], labels)
            out[f"{other} {name}"] = {
                "mean": mean.to_dict(),
                "tasks": {task: figure.to_dict() for task, figure in by_task.items()},
            }
    mean, by_task = difference(lines, ["published schedule"], [PLAIN.label])
    out["published schedule"] = {
        "mean": mean.to_dict(),
        "tasks": {task: figure.to_dict() for task, figure in by_task.items()},
    }
    return out


def hurt_kinds(
    lines: list[Line], row: str = f"both {choosing.CHOSEN_AT}", least: int = 10
) -> list[dict[str, Any]]:
    """Kinds of question by how many points of accuracy they lose, worst first, with samples that show it."""
    by_kind: dict[tuple[str, str], dict[int, dict[str, Line]]] = {}
    for line in lines:
        if line["row"] in (PLAIN.label, BLANK.label, row):
            kinds = by_kind.setdefault((line["task"], line["kind"]), {})
            kinds.setdefault(line["sample"], {})[line["row"]] = line
    out = []
    for (task, kind), samples in by_kind.items():
        whole = {n: found for n, found in samples.items() if len(found) == 3}
        if len(whole) < least:
            continue
        right = {
            label: sum(found[label]["correct"] for found in whole.values()) for label in (PLAIN.label, row)
        }
        lost = [
            n
            for n, found in sorted(whole.items())
            if found[PLAIN.label]["correct"] and not found[row]["correct"]
        ]
        share = {label: 100 * count / len(whole) for label, count in right.items()}
        shown = [
            {key: whole[n][row][key] for key in ("sample", "question", "answer", "prediction")}
            for n in lost[:3]
        ]
        out.append(
            {
                "task": task,
                "kind": kind,
                "samples": len(whole),
                "plain": share[PLAIN.label],
                "merged": share[row],
                "lost": share[PLAIN.label] - share[row],
                "examples": shown,
            }
        )
    return sorted(out, key=lambda entry: -entry["lost"])


def main(argv: list[str] | None = None) -> None:
    """See the module's description."""
    parser = argparse.ArgumentParser(prog="python -m illava_lab.benchmarks.evidence.measure")
    parser.add_argument("what", choices=("choose", "test", "bigger"))
    parser.add_argument("size", nargs="?", choices=("S", "L"), default="L")
    parser.add_argument("--limit", type=int, default=100, help="samples a task; a later run may ask for more")
    parser.add_argument(
        "--tasks", nargs="*", default=list(registry.names()), help="for test: some of them only"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    FIGURES.mkdir(parents=True, exist_ok=True)
    try:
        if options.what == "choose":
            choose(options.size, options.limit)
        elif options.what == "bigger":
            bigger(options.limit)
        else:
            test(options.size, options.limit, options.tasks)
    except InputError as error:
        raise SystemExit(f"{error} (answers of other weights: move {RUNS} away)") from None


if __name__ == "__main__":
    main()
