"""What the commands share: options, tables, progress bars, and one-line errors and warnings."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from ..errors import InputError, UnsupportedError
from ..io.files import protecting
from ..io.shares import parse_share
from ..io.texts import check_text, is_url
from ..io.warning_lines import one_line, one_line_warnings, take_over
from ..plugins import DEFAULT_MODEL_HELP

# -- Options that several commands have ----------------------------------------------------------------------

MODEL_HELP = "A model of illava-lab such as zoo/S, a folder, or a Hugging Face hub id"
KEEP_HELP = "Share of the visual tokens left at the end, such as 0.33 or 1/9"
DTYPE_HELP = (
    "auto, float32, bfloat16 or float16; auto is float32 on CPUs and the checkpoint's dtype elsewhere"
)

ModelOption = Annotated[str, typer.Option(metavar="MODEL", help=f"{MODEL_HELP}.")]
# For commands that choose a model by what is shown to it.
ModelForOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help=f"{MODEL_HELP}.", show_default=DEFAULT_MODEL_HELP),
]
DeviceOption = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")]
HostOption = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Address to listen on; 0.0.0.0 serves everyone who can reach this machine.",
    ),
]
DtypeOption = Annotated[str, typer.Option(metavar="DTYPE", help=f"{DTYPE_HELP}.")]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with the model and load pickled weights, which can execute code as well.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
AnswerTokensOption = Annotated[
    int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Generate at most this many tokens.")
]

# What ask and look run.
DEFAULT_KEEP = "1/3"
"""That of :data:`illava.methods.presets.DEFAULT_KEEP`, which takes seconds to import."""
KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="SHARE",
        help=f"{KEEP_HELP}.",
        show_default=f"{DEFAULT_KEEP}, or with --method that method's own",
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="METHOD",
        help="Name of a method or preset; illava is the published schedule.",
        show_default="illava-best, or, without --keep, the illava_config.json beside the model's weights",
    ),
]

# What eval and compare run.
ResultsOption = Annotated[
    Path,
    typer.Option(
        "--output", metavar="DIR", help="Write results to this folder; continue a run that was stopped there."
    ),
]
TasksOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks",
        metavar="TASK...",
        help="Names of tasks, or folders with a samples.jsonl.",
        show_default="all tasks but those that must be named",
    ),
]
LimitOption = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, help="Evaluate at most this many samples per task.")
]
SplitOption = Annotated[
    str, typer.Option("--split", metavar="SPLIT", help="test or val; folders have no splits.")
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Seed of the tasks and of the bootstrap.")
]
BatchSizeOption = Annotated[
    int, typer.Option("--batch-size", metavar="N", min=1, help="Number of prompts per batch.")
]
TimeOption = Annotated[
    int, typer.Option("--time", metavar="N", min=0, help="Number of prompts to time; 0 skips timing.")
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Skip invalid lines of a samples.jsonl instead of refusing it.")
]

# The prompt that bench measures and plan predicts.
SizeOption = Annotated[
    str, typer.Option("--size", metavar="PIXELS", help="Image size: the side of a square, or WIDTHxHEIGHT.")
]
PicturesOption = Annotated[
    int, typer.Option("--pictures", metavar="N", min=1, help="Number of images in each prompt.")
]
TextTokensOption = Annotated[
    int, typer.Option("--text-tokens", metavar="N", min=1, help="Number of text tokens in each prompt.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, help="Number of CPU threads.", show_default="torch's choice"
    ),
]


class App(typer.Typer):
    """An application whose commands check their arguments as :class:`Command` does."""

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **more: Any) -> Any:
        return super().command(name, cls=cls or Command, **more)


class Command(TyperCommand):
    """A command that rejects lone surrogates, empty paths and URLs in place of paths by parameter name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        parsed = self.make_parser(ctx).parse_args(list(args))[0]
        words = {param: _strings(parsed.get(str(param.name))) for param in self.params}
        with one_line_errors():
            # Before typer converts values, because its own error messages differ.
            for param, some in words.items():
                for word in some:
                    check_text(_display_name(param), word)
        rest = super().parse_args(ctx, args)
        with one_line_errors():
            for param, some in words.items():
                path = isinstance(ctx.params.get(str(param.name)), os.PathLike)
                several = isinstance(parsed.get(str(param.name)), (list, tuple))
                for word in some:
                    _check_value(_display_name(param), word, several, path)
        return rest


def _strings(value: Any) -> list[str]:
    several = value if isinstance(value, (list, tuple)) else (value,)
    return [word for word in several if isinstance(word, str)]


def _display_name(param: Any) -> str:
    """The name of a parameter on the command line: "--model", "QUESTION"."""
    return str(param.name).upper() if param.name in param.opts else max(param.opts, key=len)


def _check_value(name: str, word: str, several: bool, path: bool) -> None:
    if (several or path) and not word.strip(" ,"):
        tail = f", or leave {name} out" if name.startswith("-") else ""
        raise InputError(f"{name} is empty; give a value{tail}")
    if path and is_url(word):
        raise InputError(f"{name} {word}: this is a URL; give a path on this machine")


class SeveralCommand(Command):
    """A command whose list options accept ``--keep 1 1/3``, ``--keep 1,1/3`` and ``--keep 1 --keep 1/3``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        lists = {word for option in self.params if getattr(option, "multiple", False) for word in option.opts}
        return super().parse_args(ctx, spread_values(args, lists))


def spread_values(words: list[str], lists: Collection[str]) -> list[str]:
    """Rewrite ``--keep 1 1/3`` as ``--keep 1 --keep 1/3``.

    Args:
        lists: the options that take several values.
    """
    out: list[str] = []
    option, first = "", False
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in lists:
            # --keep=1 1/3 means --keep 1 1/3.
            out.append(name)
            word, option, first = value, name, False
        elif word.startswith("-"):
            option, first = (word if word in lists else ""), True
        elif option and not first:
            out.append(option)
        else:
            first = False
        out.append(word)
    return out


def values(words: list[str] | None) -> list[str]:
    """Split comma-separated words; an existing path with a comma in its name is not split."""
    pieces = [[word] if os.path.exists(word) else word.split(",") for word in words or ()]
    return [piece.strip() for some in pieces for piece in some if piece.strip()]


def parse_keep(text: str, option: str = "--keep") -> float:
    """Parse a share in (0, 1] from a number or a fraction. Raises InputError that names the option."""
    share = parse_share(text)
    if share is None:
        raise InputError(f"{option} {text}: give a number above 0 and up to 1, such as 0.33 or 1/9")
    return share


def print_table(title: str, table: Table) -> None:
    """Print a table of at most 80 columns, without colours when stdout is not a terminal."""
    console = Console()
    console.width = min(console.width, 80)
    console.print(Text(f"\n{title}", "bold"), table, sep="\n")


def hush() -> None:
    """Turn off the libraries' progress bars and print their warnings as illava prints its own."""
    import huggingface_hub.utils
    import transformers.utils.logging

    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.disable_progress_bars()
    take_over()


def say_default(named: str | None, used: str) -> None:
    """Print on stderr which model answers if the user named none."""
    if named is None:
        typer.echo(f"illava: {used} answers; --model chooses another model", err=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that names ``folder``."""
    try:
        yield
    except FileExistsError as error:
        raise InputError(f"{folder}: this is a file; give a folder") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot write there: {error.strerror or error}") from error


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr if it is a terminal; yields a function that takes the steps done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps: bar.advance(task, steps)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print errors that the user can fix as one line on stderr and exit with 2; exit with 130 on Ctrl-C.

    Warnings are printed as lines on stderr. Input files are not overwritten.
    """
    try:
        with one_line_warnings(), protecting():
            yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except Exception as error:
        out_of_memory = type(error).__name__ == "OutOfMemoryError"
        if not out_of_memory and not isinstance(error, (InputError, UnsupportedError)):
            raise
        text: Any = f"out of memory: {error}" if out_of_memory else error
        typer.echo(f"illava: {one_line(text)}", err=True)
        raise typer.Exit(2) from None
