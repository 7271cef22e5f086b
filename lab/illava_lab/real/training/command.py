"""``python -m illava_lab.real train``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from illava.cli.console import DeviceOption, hush, one_line_errors, writing
from illava.errors import InputError

from .. import TRAINED, cache
from ..parts import folders
from .recipe import RECIPES

NEEDED = {
    "encoder": ("config.json", "model.safetensors"),
    "llm": ("config.json", "model.safetensors", "tokenizer.json"),
}


def train(
    budget: Annotated[
        float, typer.Option(metavar="MINUTES", min=0, help="Stop after this time; the next call goes on.")
    ] = 60,
    recipe: Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(RECIPES)}.")] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run's folder.", show_default="training/RECIPE in the cache"),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights to begin with.", show_default="the shipped ones, if any"),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin without trained weights.")] = False,
    encoder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="DINOv2.", show_default="the one in the cache")
    ] = None,
    llm: Annotated[
        Path | None, typer.Option(metavar="DIR", help="SmolLM2.", show_default="the one in the cache")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The picture sets.", show_default="$ILLAVA_DATA")
    ] = None,
    every: Annotated[
        int, typer.Option(metavar="STEPS", min=1, help="Score held-out pictures this often.")
    ] = 100,
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes of each kind.")] = 24,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw pictures.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the training itself.")] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the LLM's layers; on a CPU that needs a C++ compiler.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Train the projector and the adapters of zoo/R on the picture sets.

    Without trained weights to begin with, the encoder's adapters come first, and the LLM after them. The
    run's folder holds the weights (trained.safetensors: their running average), all that is needed to go on,
    and a log. The data are described in docs/zoo-r.md.
    """
    with one_line_errors():
        hush()
        if recipe not in RECIPES:
            raise InputError(f"--recipe {recipe}: give one of {', '.join(RECIPES)}")
        where = cache.root()
        held = folders(where)
        parts = {"encoder": encoder or held["dinov2"], "llm": llm or held["smollm2"]}
        for name, folder in parts.items():
            missing = [file for file in NEEDED[name] if not (folder / file).is_file()]
            if missing:
                how = f"run `python -m illava_lab.real get --only-parts`, or give --{name}"
                raise InputError(f"{folder}: no {missing[0]} there; {how}")
        if start is not None and not start.is_file():
            raise InputError(f"--start {start}: no such file")
        if fresh and start is not None:
            raise InputError("give --fresh, which begins without trained weights, or --start, not both")
        import torch

        from illava.models.loading import parse_device

        from ..data import data_folder
        from . import encoder_run
        from .run import STATE, WEIGHTS, Run, fastest_dtype

        if threads is not None:
            torch.set_num_threads(threads)
        folder = output or where / "training" / recipe
        encoder_first = (folder / encoder_run.STATE).exists() and not (folder / STATE).exists()
        if (start is not None and encoder_first) or ((folder / STATE).exists() and (fresh or start)):
            option = "--fresh" if start is None else "--start"
            raise InputError(f"{option}: {folder} holds a run, which would go on; give another --output")
        anew = fresh or encoder_first or (start is None and not TRAINED.exists())
        found, place = data_folder(data), str(parse_device(device))
        with writing(folder):
            adapted, end = None, time.monotonic() + 60 * budget
            if anew and not (folder / STATE).exists():
                dtype = fastest_dtype(torch.device(place))
                with _errors():
                    first = encoder_run.EncoderRun(
                        parts["encoder"],
                        folder,
                        found,
                        dtype,
                        seed,
                        device=place,
                        workers=workers,
                        say=typer.echo,
                    )
                if not first.go(budget):
                    typer.echo(
                        f"step {first.step:,} of {first.steps:,} of the encoder; the next call goes on"
                    )
                    return
                adapted = first.adapters
            with _errors():
                run = Run(
                    parts["encoder"],
                    parts["llm"],
                    folder,
                    recipe,
                    None if anew else start or TRAINED,
                    adapted,
                    found,
                    place,
                    seed,
                    workers,
                    typer.echo,
                )
            if compiled:
                run.model.llm.compile_layers()
            run.go((end - time.monotonic()) / 60, every, scenes)
        typer.echo(f"step {run.step:,}; the weights are {folder / WEIGHTS}")


@contextmanager
def _errors() -> Iterator[None]:
    """What is wrong with files of weights, as an error of the command line."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error
