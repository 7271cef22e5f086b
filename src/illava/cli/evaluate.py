"""``illava eval``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..io.tables import new_table
from .console import (
    KEEP_HELP,
    AnswerTokensOption,
    BatchSizeOption,
    DeviceOption,
    DtypeOption,
    LimitOption,
    ModelOption,
    ResultsOption,
    SeedOption,
    SkipBadOption,
    SplitOption,
    TasksOption,
    TimeOption,
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
    from torch import nn

    from ..evaluation.rows import Row, Task
    from ..evaluation.store import Store

BUDGETS = ("1", "1/3", "1/6", "1/9", "1/18")
PUBLISHED = "published"


def evaluate(
    output: ResultsOption,
    model: ModelOption = "zoo/L",
    tasks: TasksOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD...", help="Names of methods or presets.", show_default="illava"),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHARE...",
            help=f"{KEEP_HELP}; or 'published' for a method's published schedule.",
            show_default=" ".join(BUDGETS),
        ),
    ] = None,
    limit: LimitOption = 300,
    split: SplitOption = "test",
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = 16,
    max_new_tokens: AnswerTokensOption = 16,
    time: TimeOption = 8,
    skip_bad: SkipBadOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
) -> None:
    """Measure how much accuracy a model retains at several budgets.

    The plain model also answers about blank (grey) images, which shows what can be guessed.

    \b
    Examples:
      illava eval --output out/eval
      illava eval --output out/eval --tasks ./my-questions --keep 1/3 1/9
    """
    with one_line_errors():
        hush()
        from ..evaluation import plot
        from ..evaluation.rows import check_rows, describe
        from ..evaluation.store import Store
        from ..evaluation.summary import summarise, write_summary
        from ..models.loading import load

        rows = make_rows(values(method) or ["illava"], values(keep) or list(BUDGETS))
        questions = make_tasks(values(tasks), split, seed, limit, skip_bad)
        loaded, processor = load(model, device, dtype, trust_remote_code)
        check_rows(loaded, rows)
        check_folders(questions, processor, limit)
        options = dict(
            limit=limit, seed=seed, split=split, batch_size=batch_size, max_new_tokens=max_new_tokens
        )
        with Store(output, describe(model, loaded, questions, rows, **options)) as store:
            timing = answer_and_time(loaded, processor, questions, rows, store, time)
            summary = summarise(store.settings, store.lines, timing)
            with writing(output):
                write_summary(output, summary)
                hint = plot.draw(summary, output / "retained.png")
        if hint:
            typer.echo(hint, err=True)
        print_summary(summary)
        typer.echo(f"Results: {output / 'summary.md'}")


def answer_and_time(
    model: nn.Module,
    processor: Any,
    tasks: list[Task],
    rows: list[Row],
    store: Store,
    count: int,
    title: str = "",
    turns: int = 1,
    timed: nn.Module | None = None,
) -> dict[str, Any] | None:
    """Generate the answers that ``store`` lacks, then time the rows that merge on ``count`` prompts.

    Every row runs ``turns`` times on each of these, and its fastest run counts. ``timed``: the same model in
    the dtype whose time counts; None: ``model`` itself.

    Returns the timing, measured now or found in the store's folder; None if there is none. Raises InputError.
    """
    from ..evaluation import speed
    from ..evaluation.rows import dtype_of, size
    from ..evaluation.run import run

    limit, most = store.settings["limit"], store.settings["max_new_tokens"]
    answers = sum(size(task, limit) for task in tasks) * (2 + len(rows))
    with progress(f"{title}answers", answers) as advance:
        run(model, processor, tasks, rows, store, limit, store.settings["batch_size"], most, advance)
    timed = model if timed is None else timed
    merging = [row for row in rows if row.method is not None]
    samples = speed.pick(tasks, limit, count)
    timing = speed.known(store.folder, merging, samples, dtype_of(timed) if samples else None)
    if timing is None and samples:
        runs = (1 + turns * len(samples)) * (1 + len(merging))
        with progress(f"{title}timing", runs) as advance, writing(store.folder):
            timing = speed.measure_rows(
                timed, processor, samples, merging, most, advance, store.folder, turns
            )
            speed.save(store.folder, timing)
    return timing


def make_rows(methods: list[str], keeps: list[str]) -> list[Row]:
    """One row per method and budget. Raises InputError."""
    from ..evaluation.rows import merged_row
    from ..methods.presets import make_method

    shares = [None if keep == PUBLISHED else parse_keep(keep) for keep in keeps]
    rows = [merged_row(make_method(name, share), share, name) for name in methods for share in shares]
    # 1/2 and 0.5 have the same label.
    return list({row.label: row for row in rows}.values())


def make_tasks(names: list[str], split: str, seed: int, limit: int, skip_bad: bool) -> list[Task]:
    """The tasks and folders named; if none is, all tasks that need not be named. Raises InputError."""
    from ..errors import InputError
    from ..evaluation.data import FolderTask
    from ..plugins import INSTALL_LAB, LAB, default_tasks
    from ..plugins import tasks as registered

    if split not in ("test", "val"):
        raise InputError(f"--split {split}: give test or val")
    known, tasks = registered(), []
    names = names or default_tasks()
    if not names:
        raise InputError(
            f"--tasks: give a folder with a samples.jsonl, or install the tasks of {LAB}: {INSTALL_LAB}"
        )
    for name in dict.fromkeys(names):
        if name in known:
            try:
                tasks.append(known[name].load(name, split=split, seed=seed))
            except (ValueError, ImportError) as error:
                raise InputError(f"--tasks {name}: {error}") from error
        elif os.path.isdir(name):
            tasks.append(FolderTask(name, limit, skip_bad))
        else:
            raise InputError(
                f"--tasks {name}: no such task or folder; give a folder or "
                + (f"some of {', '.join(known)}" if known else f"install the tasks of {LAB}: {INSTALL_LAB}")
            )
    labels = [task.name for task in tasks]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"--tasks: two tasks are called {label}; rename a folder")
    return tasks


def check_folders(tasks: list[Task], processor: Any, limit: int) -> None:
    """Print what is skipped in folders: lines that the processor rejects, and lines beyond the limit."""
    from ..evaluation.data import FolderTask, first_few
    from ..evaluation.prompts import build_batch

    for task in tasks:
        if isinstance(task, FolderTask):
            task.check(lambda sample: build_batch(processor, [sample]))
            if task.bad:
                typer.echo(
                    f"{task.name}: skipping {len(task.bad)} invalid lines: {first_few(task.bad)}", err=True
                )
            if len(task) > limit:
                typer.echo(
                    f"{task.name}: using {limit} of {len(task)} questions; raise --limit for more", err=True
                )


def print_summary(summary: dict[str, Any]) -> None:
    """Print means over tasks; if the plain model is good enough at none, print each task instead."""
    from ..evaluation.summary import ESTIMATES, interval, number

    tasks, timing = summary["tasks"], summary["timing"]
    counted = [name for name, task in tasks.items() if task["in_mean"]]
    sections = {f"Mean over {', '.join(counted)}": summary["mean"]}
    if not counted:
        sections = {f"{name}: {task['samples']} samples": task["rows"] for name, task in tasks.items()}
    for title, rows in sections.items():
        table = new_table("", "accuracy %", "retained %", "above blank %", "tokens", "prefill speed-up")
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
    """Median and range of a speed-up; on a busy machine the median alone says little."""
    return f"{ratio['median']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f})"
