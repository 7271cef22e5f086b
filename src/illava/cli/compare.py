"""The command line: ``illava compare``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..io.tables import new_table
from .console import (
    DeviceOption,
    DtypeOption,
    TrustOption,
    hush,
    one_line_errors,
    parse_keep,
    print_table,
    progress,
    values,
    writing,
)
from .evaluate import check_folders, make_tasks

if TYPE_CHECKING:
    from ..evaluation.comparison import Measured
    from ..evaluation.rows import Row

BUDGETS = ("1/3", "1/6", "1/9", "1/18")


def compare(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where results go; a run that was stopped there goes on.")
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Shipped models, folders, or ids of the Hugging Face hub. Default: zoo/L."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Methods, presets, or folders and files written by Method.save_pretrained. Default: all."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Final visual tokens / all, such as 0.33 or 1/9. Default: " + " ".join(BUDGETS) + "."
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Names of tasks, or folders that hold a samples.jsonl. Default: all tasks."),
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
    reference: Annotated[str, typer.Option(help="The method all others are compared with.")] = "illava",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
) -> None:
    """Compare methods at several budgets, on one or several models: what each keeps, costs and takes."""
    with one_line_errors():
        hush()
        from ..evaluation import comparison, comparison_page, entrants
        from ..io.files import check_free, protect
        from ..models import loading

        shares = [parse_keep(text) for text in values(keep) or BUDGETS]
        asked = values(method) or [entrants.ALL]
        against = entrants.reference_name(reference, asked)
        if against not in (entrant.name for entrant in entrants.entrants(asked)):
            asked.append(reference)
        chosen = entrants.comparison_rows(asked, shares)
        names = list(dict.fromkeys(values(model) or ["zoo/L"]))
        folders = model_folders(output, names)
        for name in names:
            loading.read_config(name, trust_remote_code)
        protect(*(name for name in values(tasks) if os.path.isdir(name)))
        check_free(output)
        options = dict(
            limit=limit, seed=seed, split=split, batch_size=batch_size, max_new_tokens=max_new_tokens
        )
        found: dict[str, Measured] = {
            name: measure(
                name, folder, chosen, values(tasks), skip_bad, options, time, device, dtype, trust_remote_code
            )
            for name, folder in folders.items()
        }
        figures = comparison.compare(found, against)
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
    rows: list[Row],
    names: list[str],
    skip_bad: bool,
    options: dict[str, Any],
    time: int,
    device: str,
    dtype: str,
    trust_remote_code: bool = False,
) -> Measured:
    """Run, or go on with, all rows on one model. Raises InputError."""
    from ..evaluation import speed
    from ..evaluation.comparison import Measured
    from ..evaluation.entrants import refusals
    from ..evaluation.rows import describe, size
    from ..evaluation.run import run
    from ..evaluation.store import Store
    from ..models.loading import load

    limit, most = options["limit"], options["max_new_tokens"]
    tasks = make_tasks(names, options["split"], options["seed"], limit, skip_bad)
    model, processor = load(name, device, dtype, trust_remote_code)
    check_folders(tasks, processor, limit)
    refused = refusals(model, processor, rows, tasks)
    for label, reason in refused.items():
        typer.echo(f"{name}: {label} is left out: {reason}", err=True)
    able = [row for row in rows if row.label not in refused]
    with Store(folder, describe(name, model, tasks, able, **options)) as store:
        answers = sum(size(task, limit) for task in tasks) * (2 + len(able))
        with progress(f"{name}: answers", answers) as advance:
            run(model, processor, tasks, able, store, limit, options["batch_size"], most, advance)
        timed = [row for row in able if row.method is not None]
        samples = speed.pick(tasks, limit, time)
        timing = speed.known(folder, timed, samples)
        if timing is None and samples:
            with (
                progress(f"{name}: timing", (1 + len(samples)) * (1 + len(timed))) as advance,
                writing(folder),
            ):
                timing = speed.measure_rows(model, processor, samples, timed, most, advance, folder)
                speed.save(folder, timing)
        return Measured(rows, refused, store.settings, store.lines, timing)


def model_folders(output: Path, names: list[str]) -> dict[str, Path]:
    """Where each model's answers go. Raises InputError where two would share a folder."""
    from ..evaluation.comparison_page import PLOTS
    from ..io.pictures import InputError
    from ..io.texts import slug

    folders: dict[str, Path] = {}
    for name in names:
        folder = output / slug(name)
        if folder in folders.values() or folder.name == PLOTS:
            raise InputError(f"--model {name}: its folder would be {folder}, which is taken; rename it")
        folders[name] = folder
    return folders


def print_comparison(figures: Mapping[str, Any]) -> None:
    """Print what every row keeps, costs and takes, model by model."""
    from ..evaluation.comparison_page import ordered
    from ..evaluation.summary import number
    from ..evaluation.verdict import difference

    for name, model in figures["models"].items():
        table = new_table("", "above blank %", "tokens", "FLOPs", "TTFT", f"against {figures['reference']}")
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
