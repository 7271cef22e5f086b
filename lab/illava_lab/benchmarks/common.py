"""What the benchmarks share: options, the file they write, linear tuning for single runs, figures as text."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import illava
from illava.bench import published
from illava.io.files import replacing

FOLDER = Path("docs/performance")
Forwards = list[tuple[nn.Module, Callable[..., Any]]]


def parser(
    description: str | None,
    rounds: int,
    output: Path = FOLDER,
    threads: int | None = 1,
    shape: str | None = None,
    size: int | None = None,
    layers: int | None = None,
    new_tokens: int | None = None,
) -> argparse.ArgumentParser:
    """A parser of the options that benchmarks share; those with None as their default are left out."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--threads", type=int, default=threads)
    made.add_argument("--output", type=Path, default=output, help="folder of the JSON file")
    if shape is not None:
        made.add_argument("--shape", choices=[*published.SHAPES], default=shape)
    if size is not None:
        made.add_argument("--size", type=int, default=size, help="pixels a side")
    if layers is not None:
        made.add_argument("--layers", type=int, default=layers, help="a slice of so many layers of each")
    if new_tokens is not None:
        made.add_argument("--new-tokens", type=int, default=new_tokens)
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse, set torch's threads, and make the output folder."""
    options = made.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    return options


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write a JSON file, all at once or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


def tuned_forwards(model: nn.Module, **options: Any) -> Forwards:
    """The modules that ``illava.tune(model, **options)`` changes, with their new ``forward``."""
    with illava.tune(model, **options) as tuned:
        return [(module, module.__dict__["forward"]) for module in tuned.modules]


@contextmanager
def applied(forwards: Forwards) -> Iterator[None]:
    """Within the block, modules use these ``forward``: tuning is found once and applied to single runs."""
    for module, forward in forwards:
        module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, _ in forwards:
            del module.__dict__["forward"]


def times(figure: Mapping[str, float]) -> str:
    """A speed-up or another ratio: "2.40 (2.27-2.65)", median and extremes of the rounds."""
    return f"{figure['median']:.2f} ({figure['low']:.2f}-{figure['high']:.2f})"
