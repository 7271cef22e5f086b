"""The command line: ``illava bench``."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import (
    DeviceOption,
    TrustOption,
    hush,
    one_line_errors,
    parse_keep,
    print_table,
    progress,
    values,
    writing,
)

if TYPE_CHECKING:
    from torch import nn

    from ..bench.run import Inputs, Variant
    from ..methods import Method

BUDGETS = ("1/3", "1/9")
BATCHES = ("1", "2", "4", "8")
LIST = "list"


def bench(
    model: Annotated[
        str | None,
        typer.Argument(help="A shipped model, a folder, or a hub id, with its own weights and processor."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Random weights of a published size instead; 'list' lists them."),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(help="With --shape: a slice of so many layers of encoder and LLM each."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Methods by name, or folders that illava plan --save wrote. Default: illava."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Final visual tokens / all, such as 0.33 or 1/9. Default: "
            + " ".join(BUDGETS)
            + ". illava's published schedule is measured as well."
        ),
    ] = None,
    size: Annotated[str, typer.Option(help="Pixels of a picture's side, or WIDTHxHEIGHT.")] = "672",
    pictures: Annotated[int, typer.Option(min=1, help="In each prompt.")] = 1,
    frames: Annotated[
        int, typer.Option(min=0, help="With --shape: a video of so many frames in the picture's place.")
    ] = 0,
    text_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of each prompt that stand for no picture.")
    ] = 47,
    batch: Annotated[
        list[str] | None, typer.Option(help="Prompts at once. Default: " + " ".join(BATCHES) + ".")
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each, after one to warm up.")] = 5,
    memory: Annotated[
        str | None,
        typer.Option(help="Such as 24GB or 80GiB: the largest batch that would fit, computed, not tried."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU. Default: torch's choice.")] = None,
    device: DeviceOption = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help="auto, float32, bfloat16 or float16; auto is float32 on CPUs, else the checkpoint's, and "
            "bfloat16 for shapes."
        ),
    ] = "auto",
    trust_remote_code: TrustOption = False,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the figures go, as JSON and as a plot.")
    ] = Path("out/bench"),
) -> None:
    """Measure time, throughput and memory, plain and merged in turn, against what FLOPs predict."""
    with one_line_errors():
        hush()
        from ..bench import published, result, run, tables
        from ..bench.memory import parse_bytes
        from ..bench.prompts import parse_size
        from ..io.files import check_free
        from ..io.pictures import InputError

        if shape == LIST:
            for name, stated in published.SHAPES.items():
                typer.echo(f"{name:22}{stated.checkpoint}")
            raise typer.Exit()
        if (model is None) == (shape is None):
            raise InputError("give either a model or --shape NAME; illava bench --shape list lists the names")
        if shape is None and (layers is not None or frames):
            raise InputError("--layers and --frames go with --shape NAME: a model is taken as it is")
        variants = make_variants(values(method) or ["illava"], values(keep) or list(BUDGETS))
        batches = list(dict.fromkeys(_batch(text) for text in values(batch) or BATCHES))
        asked = {"pictures": pictures, "text_tokens": text_tokens}
        options = {"size": parse_size(size), **asked, **({"frames": frames} if frames else {})}
        budget = None if memory is None else parse_bytes(memory)
        with writing(output):
            output.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=output).close()
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        loaded, prompt = _prepare(model, shape, layers, variants, options, device, dtype, trust_remote_code)
        check_free(output)
        with progress("runs", run.runs_of(variants, batches, rounds)) as advance:
            found = run.run(loaded, prompt, variants, batches, new_tokens, rounds, advance)
        settings = {
            "model": model,
            "shape": shape,
            "layers": layers,
            **options,
            "new_tokens": new_tokens,
            "rounds": rounds,
        }
        figures = result.collect(loaded, settings, found, budget)
        with writing(output):
            written, hint = result.write(output, figures)
        for title, table in tables.tables(figures):
            print_table(title, table)
        if hint:
            typer.echo(hint, err=True)
        typer.echo(f"All figures: {written}")


def make_variants(methods: list[str], keeps: list[str]) -> list[Variant]:
    """A variant for each method at each budget, with illava's published schedule. Raises InputError."""
    from ..bench.run import Variant
    from ..evaluation.rows import merged_row
    from ..methods.presets import make_method

    shares = [parse_keep(text) for text in keeps]
    saved = {name.rstrip("/"): _read(name) for name in methods if is_saved(name)}
    rows = [
        merged_row(make_method(name, share), share, name)
        for name in methods
        if not is_saved(name)
        for share in ((None, *shares) if name == "illava" else shares)
    ]
    # 1/2 and 0.5 are one variant.
    named = {row.label: row.method for row in rows} | saved
    return [Variant(label, method) for label, method in named.items() if method]


def is_saved(name: str) -> bool:
    """Whether this is a folder that ``illava plan --save`` or ``Method.save_pretrained`` wrote."""
    return (Path(name) / "illava_config.json").exists()


def _read(folder: str) -> Method:
    from ..io.files import protect
    from ..io.pictures import InputError
    from ..methods import Method

    protect(folder, Path(folder) / "illava_config.json")
    try:
        return Method.from_pretrained(folder)
    except ValueError as error:
        raise InputError(f"--method {folder}: {error}") from error


def _batch(text: str) -> int:
    from ..io.pictures import InputError

    if not text.isdecimal() or not 1 <= int(text) <= 65536:
        raise InputError(f"--batch {text}: give numbers of prompts at once, such as 1 4 16")
    return int(text)


def _prepare(
    name: str | None,
    shape: str | None,
    layers: int | None,
    variants: list[Variant],
    options: dict[str, Any],
    device: str,
    dtype: str,
    trust_remote_code: bool,
) -> tuple[nn.Module, Callable[[int], Inputs]]:
    """The model, and its prompts by their number; what cannot work is said before weights are made."""
    import torch

    from ..bench import prompts, published, random_weights, run
    from ..models import loading
    from ..models.families import family_of

    place, kind = loading.parse_device(device), loading.parse_dtype(dtype)
    config = (
        loading.read_config(str(name), trust_remote_code)
        if shape is None
        else published.config(shape, layers)
    )
    family_of(config)
    run.check(random_weights.on_meta(config), variants)
    if shape is None:
        model, processor = loading.load(str(name), device, dtype, trust_remote_code)
        made = functools.partial(prompts.from_processor, processor)
    else:
        made = functools.partial(prompts.make, config)
        made(**options)
        if kind is None:
            kind = torch.float32 if place.type == "cpu" else torch.bfloat16
        model = random_weights.build(shape, layers, kind, place)
    options = {**options, "device": model.device, "dtype": model.dtype}
    return model, lambda batch: made(batch=batch, **options)
