"""The ``illava`` command line: ``ask``, ``info``, and the commands of the neighbouring modules."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..io.tables import new_table
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
if TYPE_CHECKING:
    from ..ask import Answer

app = App(
    help="Accelerate vision-language models by merging redundant visual tokens, without training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
STAGES = {"pixels": "image", "encoder": "image encoder", "projector": "projector", "llm": "LLM"}


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
        from ..io.pictures import InputError, check_writable, open_picture, save_png

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
    trust_remote_code: TrustOption = False,
) -> None:
    """Show whether a model is supported and at which layers its tokens merge.

    Without MODEL, list the supported families, and the models and images of illava-lab.

    \b
    Examples:
      illava info
      illava info Qwen/Qwen2-VL-2B-Instruct
    """
    with one_line_errors():
        hush()
        from . import info as work

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


def print_answer(answer: Answer) -> None:
    """Print the answers, the number of tokens at every step, and time and cost."""
    if answer.plain_text is None:
        typer.echo(answer.text)
    else:
        name = answer.report.method["method"]
        typer.echo(
            f"{'plain:':{len(name) + 1}} {answer.plain_text}\n{name}: {answer.text}\n{_verdict(answer)}"
        )
    report, rounds = answer.report, len(answer.timings)
    print_table(
        f"Visual tokens: {report.final_tokens} of {report.visual_tokens} left, "
        f"{report.average_tokens:.1f} on average over the LLM's layers",
        _steps_table(answer),
    )
    how = "one run without warm-up"
    if answer.plain_timings is not None:
        how = f"median (range) of {rounds} rounds; ratios compare the two runs of a round"
    print_table(f"Time and cost: {how}", _cost_table(answer))


def _verdict(answer: Answer) -> str:
    """In one line: whether the answers agree, and what was gained."""
    same = answer.text == answer.plain_text
    said = "Same answer" if same else f'The answer differs: "{answer.text}", plain "{answer.plain_text}"'
    measured = [_measured(answer, *named) for named in (("ttft", "first token"), ("total", "whole answer"))]
    much, little = answer.report.plain_cost, answer.report.cost
    return (
        f"{said}. Measured: {', '.join(measured)}. "
        f"Counted: {much.total / little.total:.2f}x fewer FLOPs, KV cache "
        f"{much.kv_bytes / little.kv_bytes:.2f}x smaller."
    )


def _measured(answer: Answer, part: str, name: str) -> str:
    """A speed-up, if the 95 % interval of its median (below six rounds: its range) excludes 1."""
    from statistics import median

    from ..bench.timing import median_interval, ratios

    assert answer.plain_timings is not None
    values = ratios(answer.plain_timings, answer.timings, part)
    low, high = median_interval(values) or (min(values), max(values))
    if low <= 1 <= high:
        return f"{name} not measurably faster or slower"
    return f"{name} {median(values):.2f}x as fast"


def _steps_table(answer: Answer) -> Table:
    table = new_table("stage", "layer", "before", "after")
    for step in answer.report.steps:
        layer = "" if step.stage in ("pixels", "projector") else str(step.layer)
        table.add_row(STAGES[step.stage], layer, str(step.before), str(step.after))
    return table


def _cost_table(answer: Answer) -> Table:
    from ..bench.timing import ratio, spread

    fast, plain = answer.timings, answer.plain_timings
    table = new_table("", "plain", "merged", "plain / merged")
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


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"


def _scaled(value: float, unit: str) -> str:
    """1234567 as "1.23 M"."""
    power = 0 if value < 1 else min(int(math.log10(value)) // 3, 5)
    return f"{value / 1000**power:.3g} {' kMGTP'[power]}{unit}".strip()
