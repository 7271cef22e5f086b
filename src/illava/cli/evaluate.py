"""The command line: ``illava eval``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..io.tables import new_table
from .console import (
    DeviceOption,
    DtypeOption,
    ModelOption,
    TrustOption,
    hush,
    one_line_errors,
    parse_keep,
    print_table,
    progress,
    values,
    writing,
)

if TYPE_CHECKING:
    from ..evaluation.rows import Row, Task

PUBLISHED = "published"


def evaluate(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where results go; a run that was stopped there goes on.")
    ],
    model: ModelOption = "zoo/L",
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Names of tasks, or folders that hold a samples.jsonl. Default: all tasks."),
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Methods. Default: illava.")] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Final visual tokens / all, such as 0.33 or 1/9; or 'published' for a method's own "
            "schedule. Default: 1 1/3 1/6 1/9 1/18."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Samples of each task.")] = 300,
    split: Annotated[str, typer.Option(help="test or val; folders have no splits.")] = "test",
    seed: Annotated[int, typer.Option(min=0, help="Of the tasks and of the bootstrap.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at once.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 16,
    time: Annotated[
        int, typer.Option("--time", metavar="N", min=0, help="Prompts to measure speed on; 0: do not.")
    ] = 8,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out bad lines of a samples.jsonl.")
    ] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
) -> None:
    """Measure what merging keeps of a model's accuracy: plain, blind, and merged at several budgets."""
    with one_line_errors():
        hush()
        from ..evaluation import plot, rows, speed
        from ..evaluation.run import run
        from ..evaluation.store import Store
        from ..evaluation.summary import summarise, write_summary
        from ..models.loading import load

        chosen = make_rows(values(method) or ["illava"], values(keep) or ["1", "1/3", "1/6", "1/9", "1/18"])
        asked = make_tasks(values(tasks), split, seed, limit, skip_bad)
        loaded, processor = load(model, device, dtype, trust_remote_code)
        rows.check_rows(loaded, chosen)
        check_folders(asked, processor, limit)
        options = dict(
            limit=limit, seed=seed, split=split, batch_size=batch_size, max_new_tokens=max_new_tokens
        )
        with Store(output, rows.describe(model, loaded, asked, chosen, **options)) as store:
            answers = sum(rows.size(task, limit) for task in asked) * (2 + len(chosen))
            with progress("answers", answers) as advance:
                run(loaded, processor, asked, chosen, store, limit, batch_size, max_new_tokens, advance)
            samples = speed.pick(asked, limit, time)
            timing = speed.known(output, chosen, samples)
            if timing is None and samples:
                with progress("timing", (1 + len(samples)) * (1 + len(chosen))) as advance:
                    timing = speed.measure_rows(
                        loaded, processor, samples, chosen, max_new_tokens, advance, output
                    )
                with writing(output):
                    speed.save(output, timing)
            summary = summarise(store.settings, store.lines, timing)
            with writing(output):
                write_summary(output, summary)
                hint = plot.draw(summary, output / "retained.png")
        if hint:
            typer.echo(hint, err=True)
        print_summary(summary)
        typer.echo(f"All figures: {output / 'summary.md'}")


def make_rows(methods: list[str], keeps: list[str]) -> list[Row]:
    """A row for every method at every budget. Raises InputError."""
    from ..evaluation.rows import merged_row
    from ..methods.presets import make_method

    shares = [None if keep == PUBLISHED else parse_keep(keep) for keep in keeps]
    rows = [merged_row(make_method(name, share), share, name) for name in methods for share in shares]
    # 1/2 and 0.5 are one row.
    return list({row.label: row for row in rows}.values())


def make_tasks(names: list[str], split: str, seed: int, limit: int, skip_bad: bool) -> list[Task]:
    """The tasks of these names, or all, and folders of questions. Raises InputError."""
    from ..errors import InputError
    from ..evaluation.data import FolderTask
    from ..plugins import LAB
    from ..plugins import tasks as registered

    if split not in ("test", "val"):
        raise InputError(f"--split {split}: give test or val")
    known, made = registered(), []
    if not known and not names:
        raise InputError(
            f"--tasks: give a folder of questions; tasks by name come with {LAB}: pip install {LAB}"
        )
    for name in dict.fromkeys(names or known):
        if name in known:
            try:
                made.append(known[name].load(name, split=split, seed=seed))
            except (ValueError, ImportError) as error:
                raise InputError(f"--tasks {name}: {error}") from error
        elif os.path.isdir(name):
            made.append(FolderTask(name, limit, skip_bad))
        else:
            raise InputError(
                f"--tasks {name}: no such task or folder; give a folder or "
                + (f"some of {', '.join(known)}" if known else f"install tasks by name: pip install {LAB}")
            )
    labels = [task.name for task in made]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"--tasks: two tasks are called {label}; rename a folder")
    return made


def check_folders(tasks: list[Task], processor: Any, limit: int) -> None:
    """Say what is left out of folders: what the processor refuses, and lines beyond the limit."""
    from ..evaluation.data import FolderTask, first_few
    from ..evaluation.prompts import build_batch

    for task in tasks:
        if isinstance(task, FolderTask):
            task.check(lambda sample: build_batch(processor, [sample]))
            if task.bad:
                typer.echo(f"{task.name}: skipped {len(task.bad)} bad lines: {first_few(task.bad)}", err=True)
            if len(task) > limit:
                typer.echo(f"{task.name}: {limit} of its {len(task)} questions; --limit asks more", err=True)


def print_summary(summary: dict[str, Any]) -> None:
    """Print the means over tasks; where no task is good enough for them, the tasks one by one."""
    from ..evaluation.summary import ESTIMATES, interval, number

    tasks, timing = summary["tasks"], summary["timing"]
    counted = [name for name, task in tasks.items() if task["in_mean"]]
    sections = {f"Mean over {', '.join(counted)}": summary["mean"]}
    if not counted:
        sections = {f"{name}: {task['samples']} samples": task["rows"] for name, task in tasks.items()}
    for title, rows in sections.items():
        table = new_table("%", "accuracy", "retained", "above blank", "tokens", "prefill")
        for label, figures in rows.items():
            faster = timing["rows"].get(label) if timing else None
            table.add_row(
                label,
                *(number(figures[key]["value"], ".1f") for key in ESTIMATES[:-1]),
                interval(figures[ESTIMATES[-1]]),
                number(figures["final_tokens"], ".1f"),
                _times(faster["faster"]["prefill"]) if faster else "-",
            )
        print_table(title, table)


def _times(ratio: dict[str, float]) -> str:
    """Median and range of a ratio: on a busy machine the median alone says little."""
    return f"{ratio['median']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f})"
