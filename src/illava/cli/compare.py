"""``illava compare``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..io.tables import new_table
from .console import (
    KEEP_HELP,
    MODEL_HELP,
    AnswerTokensOption,
    BatchSizeOption,
    DeviceOption,
    DtypeOption,
    LimitOption,
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
    values,
    writing,
)
from .equal_time import EqualTime, check_options, equal_time, parse_speedups
from .evaluate import answer_and_time, check_folders, make_tasks

if TYPE_CHECKING:
    from ..evaluation.comparison import Measured
    from ..evaluation.rows import Row

BUDGETS = ("1/3", "1/6", "1/9", "1/18")


def compare(
    output: ResultsOption,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL...", help=f"{MODEL_HELP}; or several.", show_default="zoo/L"),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD...",
            help="Names of methods or presets, or folders or files written by Method.save_pretrained.",
            show_default="all",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="SHARE...", help=f"{KEEP_HELP}.", show_default=" ".join(BUDGETS)),
    ] = None,
    speedup: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TIMES...",
            help="Instead of --keep: compare at these speed-ups of the time to first token, such as 2 3 4; "
            "every method gets the budget that reaches it.",
        ),
    ] = None,
    clock: Annotated[
        str | None,
        typer.Option(
            metavar="SHAPE",
            help="With --speedup: the predicted time of the same schedules on a published size counts; "
            "illava bench --shape list prints the names. Or a clock.json written before.",
            show_default="the model's own measured time",
        ),
    ] = None,
    tasks: TasksOption = None,
    limit: LimitOption = 300,
    split: SplitOption = "test",
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = 16,
    max_new_tokens: AnswerTokensOption = 16,
    time: TimeOption = 8,
    skip_bad: SkipBadOption = False,
    reference: Annotated[
        str, typer.Option(metavar="METHOD", help="Compare all other methods with this one.")
    ] = "illava",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    time_dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE",
            help="The dtype whose time counts: the model is loaded once more. Answers stay in --dtype.",
            show_default="that of --dtype",
        ),
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Compare the accuracy, cost and speed of several methods, on one or more models.

    \b
    Examples:
      illava compare --output out/compare
      illava compare --output out/compare --method illava fastv --keep 1/3 1/9
      illava compare --output out/equal --method illava-best fastv --reference fastv --speedup 2 3 4
    """
    with one_line_errors():
        hush()
        from ..evaluation import compared_methods, comparison, comparison_page
        from ..io.files import check_free, protect
        from ..models import loading

        check_options(values(speedup), values(keep), clock)
        check_time_dtype(time_dtype)
        targets = parse_speedups(values(speedup))
        shares = [parse_keep(text) for text in values(keep) or BUDGETS]
        methods = values(method) or [compared_methods.ALL]
        against = compared_methods.reference_name(reference, methods)
        if against not in (one.name for one in compared_methods.find(methods)):
            methods.append(reference)
        rows = [] if targets else compared_methods.comparison_rows(methods, shares)
        names = list(dict.fromkeys(values(model) or ["zoo/L"]))
        folders = model_folders(output, names)
        for name in names:
            loading.read_config(name, trust_remote_code)
        protect(*(name for name in values(tasks) if os.path.isdir(name)))
        check_free(output)
        timed = (
            equal_time(methods, targets, time, clock, output, device, time_dtype or dtype)
            if targets
            else None
        )
        options = dict(
            limit=limit, seed=seed, split=split, batch_size=batch_size, max_new_tokens=max_new_tokens
        )
        measured: dict[str, Measured] = {
            name: measure(
                name,
                folder,
                timed or rows,
                values(tasks),
                skip_bad,
                options,
                time,
                device,
                dtype,
                time_dtype,
                trust_remote_code,
            )
            for name, folder in folders.items()
        }
        figures = comparison.compare(measured, against)
        with writing(output):
            hint = comparison_page.write(output, figures)
        if hint:
            typer.echo(hint, err=True)
        print_comparison(figures)
        page, table = output / comparison_page.PAGE, output / comparison_page.TABLE
        typer.echo(f"Verdict: {page}; all figures: {table}")


def measure(
    name: str,
    folder: Path,
    wanted: list[Row] | EqualTime,
    names: list[str],
    skip_bad: bool,
    options: dict[str, Any],
    time: int,
    device: str,
    dtype: str,
    time_dtype: str | None = None,
    trust_remote_code: bool = False,
) -> Measured:
    """Run all rows on one model, or continue a run. Raises InputError."""
    from ..evaluation.compared_methods import refusals
    from ..evaluation.comparison import Measured
    from ..evaluation.equal_time import TURNS
    from ..evaluation.rows import describe, group
    from ..evaluation.store import Store
    from ..models.loading import load

    tasks = make_tasks(names, options["split"], options["seed"], options["limit"], skip_bad)
    model, processor = load(name, device, dtype, trust_remote_code)
    again = time_dtype is not None and time > 0
    timed = load(name, device, str(time_dtype), trust_remote_code)[0] if again else model
    check_folders(tasks, processor, options["limit"])
    batch = min(options["limit"], options["batch_size"])
    clock, targets, turns = None, list[float](), 1
    if isinstance(wanted, EqualTime):
        targets, turns = wanted.targets, TURNS
        rows, refused = wanted.rows(name, timed, processor, tasks, options["limit"], batch, folder)
        clock = wanted.clock
    else:
        rows, refused = wanted, refusals(model, processor, wanted, tasks, batch)
    for label, reason in refused.items():
        typer.echo(f"{name}: skipping {label}: {reason}", err=True)
    runnable = [row for row in rows if row.label not in refused]
    with Store(folder, describe(name, model, tasks, runnable, **options)) as store:
        timing = answer_and_time(model, processor, tasks, runnable, store, time, f"{name}: ", turns, timed)
        groups = {task.name: group(task) for task in tasks}
        return Measured(rows, refused, store.settings, store.lines, timing, groups, clock, targets)


def check_time_dtype(name: str | None) -> None:
    """Raise InputError for an unknown dtype, before anything is loaded."""
    from ..errors import InputError
    from ..models.loading import parse_dtype

    try:
        parse_dtype(name or "auto")
    except InputError as error:
        raise InputError(f"--time-dtype: {error}") from None


def model_folders(output: Path, names: list[str]) -> dict[str, Path]:
    """The folder for each model's answers. Raises InputError if two models would share one."""
    from ..evaluation.comparison_page import PLOTS
    from ..io.pictures import InputError
    from ..io.texts import slug

    folders: dict[str, Path] = {}
    for name in names:
        folder = output / slug(name)
        if folder in folders.values() or folder.name == PLOTS:
            raise InputError(
                f"--model {name}: its results folder {folder} is already in use; rename the model"
            )
        folders[name] = folder
    return folders


def print_comparison(figures: Mapping[str, Any]) -> None:
    """Print accuracy, tokens, FLOPs and time of every row, one table per model."""
    from ..evaluation.comparison_page import ordered
    from ..evaluation.summary import number
    from ..evaluation.verdict import difference

    for name, model in figures["models"].items():
        table = new_table(
            "", "above blank %", "tokens", "FLOPs / plain", "TTFT / plain", f"vs {figures['reference']}"
        )
        for row in ordered(model["rows"]):
            table.add_row(
                row["label"],
                "not run" if row["refused"] is not None else number(row["above_blank"]["value"], ".1f"),
                number(row["final_tokens"], ".1f"),
                number(row["flops"], ".3f"),
                number(row["ttft"]["value"], ".2f"),
                "-" if row["p"] is None else difference(row, short=True).replace("\\", ""),
            )
        print_table(name, table)
