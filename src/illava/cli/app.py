"""The ``illava`` command line: ``ask``, ``info``, and the commands of the neighbouring modules."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .answers import print_answer
from .batch import batch
from .bench import bench
from .compare import compare
from .console import (
    MODEL_HELP,
    AnswerTokensOption,
    App,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KeepOption,
    MethodOption,
    ModelForOption,
    SeveralCommand,
    TrustOption,
    hush,
    one_line_errors,
    parse_keep,
    print_table,
    say_default,
)
from .demo import demo
from .doctor import doctor
from .evaluate import evaluate
from .look import look
from .plan import plan
from .serve import serve

# torch and transformers take seconds to import: commands do it when they need them, so that --help is quick.
app = App(
    help="Accelerate vision-language models by merging redundant visual tokens, without training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the ``illava`` script."""
    # An answer may hold characters that the terminal cannot encode.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

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
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE", help="Image files, or images of illava-lab such as demo/word.png."),
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="A question about them, in quotes.")],
    model: ModelForOption = None,
    keep: KeepOption = None,
    method: MethodOption = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also run the plain model.")] = False,
    rounds: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="With --compare: timed runs of each model, after one warm-up run."
        ),
    ] = 5,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
    max_new_tokens: AnswerTokensOption = 64,
    save_overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Save the images with the patches that were kept drawn on them."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask an accelerated model a question about one or more images.

    \b
    Examples:
      illava ask demo/word.png "What does it read?"
      illava ask demo/number.png "What colour is the heart?" --keep 1/9 --compare
      illava ask photo.jpg "What is it?" --model Qwen/Qwen2-VL-2B-Instruct
    """
    with one_line_errors():
        from ..io.pictures import check_writable, open_picture, save_png

        if os.path.isfile(question):
            raise InputError(f"{question}: the last argument must be the question, but this is a file")
        if not question.strip():
            raise InputError("give a question after the images, in quotes")
        share = None if keep is None else parse_keep(keep)
        opened = [open_picture(picture) for picture in pictures]
        if save_overlay is not None:
            check_writable(save_overlay)
        hush()
        from .. import ask as work
        from ..methods.presets import make_method
        from ..plugins import default_model

        named, model = model, default_model(pictures) if model is None else model
        if method is not None:
            # Before the model is loaded, which takes time.
            make_method(method, share or 1.0)
        loaded, processor = work.load(model, device, dtype, trust_remote_code)
        say_default(named, model)
        chosen, shipped = work.choose(loaded, method, share)
        answer = work.ask(
            loaded, processor, opened, question, chosen, max_new_tokens, compare=compare, rounds=rounds
        )
        if save_overlay is not None:
            from ..viz.overlay import draw_overlay

            save_png(draw_overlay(opened, answer.report), save_overlay)
        if as_json:
            where = {
                "model": model,
                "device": str(loaded.device),
                "dtype": str(loaded.dtype).removeprefix("torch."),
                "pictures": pictures,
                "overlay": str(save_overlay) if save_overlay else None,
                "method_file": str(shipped.file) if shipped else None,
            }
            typer.echo(json.dumps({**where, **answer.to_dict()}))
        else:
            print_answer(answer)
            if shipped:
                typer.echo(f"Method: {chosen.name}, from {shipped.file}")


@app.command()
def info(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}.", show_default=False)
    ] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="List every image-text-to-text model type of transformers, or why it is not supported.",
        ),
    ] = False,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Show whether a model is supported and at which layers its tokens merge.

    Without MODEL, list the supported families, and the models and images of illava-lab.

    \b
    Examples:
      illava info
      illava info Qwen/Qwen2-VL-2B-Instruct
      illava info --all
    """
    with one_line_errors():
        if every and model is not None:
            raise InputError(f"give either {model} or --all")
        if as_json and not every:
            raise InputError("--json is for --all")
        hush()
        from . import info as work

        if every:
            from .every_type import print_every_type

            print_every_type(as_json)
            return

        for title, table in work.overview() if model is None else work.describe(model, trust_remote_code):
            print_table(title, table)


app.command()(plan)
app.command()(look)
app.command()(demo)
app.command()(serve)
app.command()(batch)
app.command()(doctor)
app.command("eval", cls=SeveralCommand)(evaluate)
app.command("compare", cls=SeveralCommand)(compare)
app.command("bench", cls=SeveralCommand)(bench)
