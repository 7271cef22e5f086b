"""``illava bench``."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import (
    DTYPE_HELP,
    KEEP_HELP,
    MODEL_HELP,
    DeviceOption,
    PicturesOption,
    SizeOption,
    TextTokensOption,
    ThreadsOption,
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
        typer.Argument(
            metavar="MODEL", help=f"{MODEL_HELP}, with weights and processor.", show_default=False
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Measure random weights of a published size instead of MODEL; 'list' prints the names.",
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="With --shape: keep only the first N layers of the image encoder and of the LLM.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD...",
            help="Names of methods, or folders written by illava plan --save.",
            show_default="illava",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHARE...",
            help=f"{KEEP_HELP}. illava is also measured with its published schedule.",
            show_default=" ".join(BUDGETS),
        ),
    ] = None,
    size: SizeOption = "672",
    pictures: PicturesOption = 1,
    frames: Annotated[
        int, typer.Option(metavar="N", min=0, help="With --shape: a video of N frames instead of images.")
    ] = 0,
    text_tokens: TextTokensOption = 47,
    batch: Annotated[
        list[str] | None,
        typer.Option(metavar="N...", help="Batch sizes.", show_default=" ".join(BATCHES)),
    ] = None,
    new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of tokens generated for each prompt.")
    ] = 32,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Timed runs of each variant, after one warm-up run.")
    ] = 5,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            help="Also compute, without running it, the largest batch that fits in e.g. 24GB or 80GiB.",
        ),
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help=f"{DTYPE_HELP}, bfloat16 with --shape.")
    ] = "auto",
    trust_remote_code: TrustOption = False,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Write the results to this folder, as JSON and as a plot.")
    ] = Path("out/bench"),
) -> None:
    """Measure speed, throughput and memory of the plain and the accelerated model.

    Plain and accelerated runs alternate. Every speed-up is printed with its FLOP bound.

    \b
    Examples:
      illava bench zoo/L
      illava bench zoo/L --keep 1/3 1/9 --batch 1 8
      illava bench --shape list
    """
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
            raise InputError("give either MODEL or --shape NAME; illava bench --shape list prints the names")
        if shape is None and (layers is not None or frames):
            raise InputError("--layers and --frames need --shape NAME; leave them out for MODEL")
        variants = make_variants(values(method) or ["illava"], values(keep) or list(BUDGETS))
        batches = list(dict.fromkeys(_batch(text) for text in values(batch) or BATCHES))
        options = {"size": parse_size(size), "pictures": pictures, "text_tokens": text_tokens}
        options |= {"frames": frames} if frames else {}
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
            measured = run.run(loaded, prompt, variants, batches, new_tokens, rounds, advance)
        settings = {
            "model": model,
            "shape": shape,
            "layers": layers,
            **options,
            "new_tokens": new_tokens,
            "rounds": rounds,
        }
        figures = result.collect(loaded, settings, measured, budget)
        with writing(output):
            written, hint = result.write(output, figures)
        for title, table in tables.tables(figures):
            print_table(title, table)
        if hint:
            typer.echo(hint, err=True)
        typer.echo(f"Results: {written}")


def make_variants(methods: list[str], keeps: list[str]) -> list[Variant]:
    """One variant per method and budget, and illava's published schedule. Raises InputError."""
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
    # 1/2 and 0.5 have the same label.
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
        raise InputError(f"--batch {text}: give batch sizes from 1 to 65536, such as 1 4 16")
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
    """The model, and a function from a batch size to inputs. Raises InputError before weights are created."""
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
        make = functools.partial(prompts.from_processor, processor)
    else:
        make = functools.partial(prompts.make, config)
        make(**options)
        if kind is None:
            kind = torch.float32 if place.type == "cpu" else torch.bfloat16
        model = random_weights.build(shape, layers, kind, place)
    options = {**options, "device": model.device, "dtype": model.dtype}
    return model, lambda batch: make(batch=batch, **options)
