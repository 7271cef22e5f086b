"""``illava batch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import (
    AnswerTokensOption,
    DeviceOption,
    DtypeOption,
    KeepOption,
    MethodOption,
    ModelOption,
    TrustOption,
    hush,
    one_line_errors,
    parse_keep,
    progress,
)
from .serving_options import (
    AddressOption,
    FramesOption,
    MegapixelsOption,
    PictureMbOption,
    PicturesOption,
    PromptTokensOption,
    ServedNameOption,
    TemperatureOption,
    check_packages,
    check_ray,
    served_name,
    source_of,
)

PACKAGES = ("pydantic", "prometheus_client")


def batch(
    rows: Annotated[
        Path, typer.Argument(metavar="IN", help="A file with one JSON object a line: a request each.")
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Write the answers to this file; continue a run that was stopped."
        ),
    ],
    model: ModelOption = "zoo/L",
    keep: KeepOption = None,
    method: MethodOption = None,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Processes with a model each, under Ray; 0: in this process, without Ray.",
        ),
    ] = 0,
    address: AddressOption = None,
    max_new_tokens: AnswerTokensOption = 64,
    max_batch: Annotated[
        int, typer.Option(metavar="N", min=1, help="Answer up to this many rows together.")
    ] = 8,
    temperature: TemperatureOption = 0.0,
    max_prompt_tokens: PromptTokensOption = 8192,
    max_pictures: PicturesOption = 8,
    max_frames: FramesOption = 32,
    max_megapixels: MegapixelsOption = 32,
    max_picture_mb: PictureMbOption = 8,
    name: ServedNameOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
) -> None:
    """Answer a file of questions about images with an accelerated model.

    A row is a request of OpenAI's batch files, or simply
    {"id": "a", "picture": "cats/1.jpg", "question": "How many cats are there?"}.
    Rows that cannot be answered go to OUT.bad.jsonl, with the reason.

    \b
    Examples:
      illava batch questions.jsonl answers.jsonl --keep 1/9
      illava batch questions.jsonl answers.jsonl --workers 4 --device cuda
    """
    with one_line_errors():
        check_packages(PACKAGES)
        check_ray("--workers", workers, address)
        share = None if keep is None else parse_keep(keep)
        hush()
        from ..batch.run import Batch, in_this_process
        from ..methods.presets import make_method
        from ..serving.settings import Settings

        if method is not None:
            make_method(method, share or 1.0)
        settings = Settings(
            name=name or served_name(model),
            keep=share,
            method=method,
            temperature=temperature,
            max_tokens=max_new_tokens,
            max_prompt_tokens=max_prompt_tokens,
            max_picture_mb=max_picture_mb,
            max_pictures=max_pictures,
            max_frames=max_frames,
            max_megapixels=max_megapixels,
            max_batch=max_batch,
        )
        source = source_of(model, device, dtype, trust_remote_code)
        answering = in_this_process
        if workers:
            from ..batch.on_ray import Workers

            answering = Workers(workers, address).answer
        with Batch(rows, out, source, settings) as work:
            with progress("checked", work.left) as advance:
                planned = work.plan(advance)
            with progress("answered", sum(map(len, planned))) as advance:
                done = work.answer(answering, planned, advance)
        before = f", {done.before:,} before" if done.before else ""
        typer.echo(f"{out}: {done.answered:,} rows answered{before}")
        if done.bad:
            rows = f"{done.bad:,} row{'s' if done.bad > 1 else ''}"
            typer.echo(f"illava: {done.side}: {rows} without an answer; {done.first}", err=True)
