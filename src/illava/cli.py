"""The command line: ``illava ask`` and ``illava info``."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

# torch and transformers take seconds to import: commands do it when they need them, so that --help is quick.
if TYPE_CHECKING:
    from .ask import Answer
    from .methods import Method

app = typer.Typer(
    help="Vision-language models made faster by merging redundant visual tokens, without training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
STAGES = {"encoder": "image encoder", "llm": "LLM"}


def main() -> None:
    """Entry point of the ``illava`` script."""
    # An answer may hold characters that the terminal's encoding has not.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"illava {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


@app.command()
def ask(
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE", help="Picture files, or demo/NAME.")],
    question: Annotated[str, typer.Argument(help="A question about them, in quotes.")],
    model: Annotated[
        str, typer.Option(help="A shipped model, a folder, or an id of the Hugging Face hub.")
    ] = "zoo/S",
    keep: Annotated[
        str | None,
        typer.Option(
            help="Share of the visual tokens that is left at the end, such as 0.33 or 1/9. "
            "Default: the schedule published for the model's family."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="Which tokens go: the name of a method.")] = "illava",
    compare: Annotated[bool, typer.Option("--compare", help="Run the plain model, too.")] = False,
    rounds: Annotated[
        int, typer.Option(min=1, help="With --compare: timed runs of each, after one to warm up.")
    ] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help="auto, float32, bfloat16 or float16; auto is float32 on CPUs, else the checkpoint's."
        ),
    ] = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 64,
    save_overlay: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw which patches were left over the pictures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Ask an accelerated model a question about one or more pictures."""
    with _one_line_errors():
        from .pictures import InputError, check_writable, open_picture, save_png

        if os.path.isfile(question):
            raise InputError(f"{question}: the last argument must be the question, this is a file")
        share = None if keep is None else parse_keep(keep)
        if save_overlay is not None:
            check_writable(save_overlay)
        opened = [open_picture(picture) for picture in pictures]
        _hush()
        from . import ask as work

        chosen = make_method(method, share)
        loaded, processor = work.load(model, device, dtype)
        answer = work.ask(
            loaded, processor, opened, question, chosen, max_new_tokens, compare=compare, rounds=rounds
        )
        if save_overlay is not None:
            from .overlay import draw_overlay

            save_png(draw_overlay(opened, answer.report), save_overlay)
        if as_json:
            where = {
                "model": model,
                "device": str(loaded.device),
                "dtype": str(loaded.dtype).removeprefix("torch."),
                "pictures": pictures,
                "overlay": str(save_overlay) if save_overlay else None,
            }
            typer.echo(json.dumps({**where, **answer.to_dict()}))
        else:
            print_answer(answer)


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help="A shipped model, a folder, or a hub id.")] = None,
) -> None:
    """Say whether a model is supported and where its tokens would merge; without MODEL, list what is."""
    with _one_line_errors():
        _hush()
        from . import info as work

        for title, table in work.overview() if model is None else work.describe(model):
            print_table(title, table)


def parse_keep(text: str) -> float:
    """A share in (0, 1] from a number or a fraction. Raises InputError."""
    from .pictures import InputError

    try:
        share = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        share = math.nan
    if not 0 < share <= 1:
        raise InputError(f"--keep {text}: give a number above 0 and up to 1, such as 0.33 or 1/9")
    return share


def make_method(name: str, keep: float | None) -> Method:
    """A method by name, at a budget or at its published schedule. Raises InputError."""
    from .methods import methods
    from .pictures import InputError

    if name not in methods():
        raise InputError(
            f"--method {name}: there is no such method; give one of {', '.join(sorted(methods()))}"
        )
    try:
        return methods()[name]() if keep is None else methods()[name](keep=keep)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise InputError(f"--method {name}: {error}") from error


def print_answer(answer: Answer) -> None:
    """Print the answers, the tokens at every step, and time and cost."""
    if answer.plain_text is None:
        typer.echo(answer.text)
    else:
        typer.echo(f"plain:  {answer.plain_text}\nillava: {answer.text}")
    report, rounds = answer.report, len(answer.timings)
    print_table(
        f"Visual tokens: {report.final_tokens} of {report.visual_tokens} left, "
        f"{report.average_tokens:.1f} on average over the LLM's layers",
        _steps_table(answer),
    )
    how = (
        "one run, not warmed up" if answer.plain_timings is None else f"medians and ranges of {rounds} rounds"
    )
    print_table(f"Time and cost: {how}", _cost_table(answer))


def print_table(title: str, table: Table) -> None:
    """At most 80 columns, without colours when piped."""
    console = Console()
    console.width = min(console.width, 80)
    console.print(Text(f"\n{title}", "bold"), table, sep="\n")


def _steps_table(answer: Answer) -> Table:
    table = _table("stage", "layer", "before", "after")
    for step in answer.report.steps:
        table.add_row(STAGES[step.stage], str(step.layer), str(step.before), str(step.after))
    return table


def _cost_table(answer: Answer) -> Table:
    from .bench.timing import ratio, spread

    fast, plain = answer.timings, answer.plain_timings
    table = _table("", "plain", "accelerated", "ratio")
    names = {
        "encoder": "image encoder",
        "prefill": "prefill",
        "decode_per_token": "decode, per token",
        "ttft": "time to first token",
        "total": "total",
    }
    for part, name in names.items():
        after = _seconds(spread([getattr(timing, part) for timing in fast]).median)
        if plain is None:
            table.add_row(name, "", after, "")
            continue
        before = _seconds(spread([getattr(timing, part) for timing in plain]).median)
        gain = ratio(plain, fast, part)
        shown = "" if math.isnan(gain.median) else f"{gain.median:.2f}x ({gain.low:.2f}-{gain.high:.2f})"
        table.add_row(name, before, after, shown)
    costs = answer.report.plain_cost, answer.report.cost
    for name, unit, (much, little) in (
        ("FLOPs", "", [cost.total for cost in costs]),
        ("KV cache", "B", [cost.kv_bytes for cost in costs]),
    ):
        table.add_row(name, _scaled(much, unit), _scaled(little, unit), f"{much / little:.2f}x")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"


def _scaled(value: float, unit: str) -> str:
    """1234567 as "1.23 M"."""
    power = 0 if value < 1 else min(int(math.log10(value)) // 3, 5)
    return f"{value / 1000**power:.3g} {' kMGTP'[power]}{unit}".strip()


def _hush() -> None:
    """Keep the libraries' warnings and progress bars out of the output; errors still come as exceptions."""
    import warnings

    warnings.simplefilter("ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import huggingface_hub.utils
    import transformers.utils.logging

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can put right becomes one line on stderr and exit code 2; Ctrl-C is quiet, 130."""
    try:
        from .errors import UnsupportedError
        from .pictures import InputError

        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except Exception as error:
        out_of_memory = type(error).__name__ == "OutOfMemoryError"
        if not out_of_memory and not isinstance(error, (InputError, UnsupportedError)):
            raise
        text: Any = f"out of memory: {error}" if out_of_memory else error
        line = " ".join(str(text).split())
        typer.echo("illava: " + "".join(c if c.isprintable() else "?" for c in line), err=True)
        raise typer.Exit(2) from None
