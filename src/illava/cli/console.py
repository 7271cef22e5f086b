"""What all commands share: options as users write them, tables, errors and warnings in one line each."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from ..errors import InputError, UnsupportedError
from ..io.files import protecting
from ..io.texts import check_text, is_url
from ..io.warning_lines import one_line, one_line_warnings, take_over

if TYPE_CHECKING:
    from pathlib import Path


ModelOption = Annotated[
    str, typer.Option(help="A shipped model, a folder, or an id of the Hugging Face hub.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
DtypeOption = Annotated[
    str,
    typer.Option(help="auto, float32, bfloat16 or float16; auto is float32 on CPUs, else the checkpoint's."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with the model, and read pickled weights, which can run code too.",
    ),
]


class App(typer.Typer):
    """Whose commands all check what they are given, as :class:`Command` does."""

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **more: Any) -> Any:
        return super().command(name, cls=cls or Command, **more)


class Command(TyperCommand):
    """A command that refuses texts with lone surrogates, empty paths and URLs in place of paths, by name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = self.make_parser(ctx).parse_args(list(args))[0]
        words = {param: _strings(given.get(str(param.name))) for param in self.params}
        with one_line_errors():
            # Before conversion, which refuses some in words of its own.
            for param, some in words.items():
                for word in some:
                    check_text(_shown(param), word)
        rest = super().parse_args(ctx, args)
        with one_line_errors():
            for param, some in words.items():
                path = isinstance(ctx.params.get(str(param.name)), os.PathLike)
                several = isinstance(given.get(str(param.name)), (list, tuple))
                for word in some:
                    _check_value(_shown(param), word, several, path)
        return rest


def _strings(value: Any) -> list[str]:
    several = value if isinstance(value, (list, tuple)) else (value,)
    return [word for word in several if isinstance(word, str)]


def _shown(param: Any) -> str:
    """How a parameter is called on the command line: "--model", "QUESTION"."""
    return str(param.name).upper() if param.name in param.opts else max(param.opts, key=len)


def _check_value(name: str, word: str, several: bool, path: bool) -> None:
    if (several or path) and not word.strip(" ,"):
        tail = f", or leave {name} out" if name.startswith("-") else ""
        raise InputError(f"{name}: it is empty; give a value{tail}")
    if path and is_url(word):
        raise InputError(f"{name} {word}: this is a URL; give a path on this machine")


class SeveralCommand(Command):
    """A command whose options for lists take ``--keep 1 1/3``, ``--keep 1,1/3`` or are repeated."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        lists = {word for option in self.params if getattr(option, "multiple", False) for word in option.opts}
        return super().parse_args(ctx, spread_values(args, lists))


def spread_values(words: list[str], lists: Collection[str]) -> list[str]:
    """``--keep 1 1/3`` as ``--keep 1 --keep 1/3``: the command has no positional arguments to mix up."""
    out: list[str] = []
    option, first = "", False
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in lists:
            # --keep=1 1/3 is --keep 1 1/3.
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


def values(given: list[str] | None) -> list[str]:
    """What comma-separated words name; a path with a comma in its name stays whole."""
    pieces = [[word] if os.path.exists(word) else word.split(",") for word in given or ()]
    return [piece.strip() for some in pieces for piece in some if piece.strip()]


DEFAULT_KEEP = "1/6"
"""That of :data:`illava.methods.presets.DEFAULT_KEEP`, which takes seconds to import."""


def parse_keep(text: str) -> float:
    """A share in (0, 1] from a number or a fraction. Raises InputError."""
    try:
        # A fraction would write out all digits of 1e-99999999.
        share = float(text) if "e" in text.lower() else float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        share = math.nan
    if not 0 < share <= 1:
        raise InputError(f"--keep {text}: give a number above 0 and up to 1, such as 0.33 or 1/9")
    return share


def print_table(title: str, table: Table) -> None:
    """At most 80 columns, without colours when piped."""
    console = Console()
    console.width = min(console.width, 80)
    console.print(Text(f"\n{title}", "bold"), table, sep="\n")


def hush() -> None:
    """Turn off the libraries' progress bars, and let their warnings come as lines of illava's own."""
    import huggingface_hub.utils
    import transformers.utils.logging

    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.disable_progress_bars()
    take_over()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What cannot be written there becomes an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: cannot write there: {error.strerror or error}") from error


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr where that is a terminal; yields what to call with each number of steps."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps: bar.advance(task, steps)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What the user can put right becomes one line on stderr and exit code 2; Ctrl-C is quiet, 130.

    Warnings become lines on stderr, and files that were given are not overwritten.
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
