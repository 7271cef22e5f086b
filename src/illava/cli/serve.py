"""``illava serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import (
    MODEL_HELP,
    DeviceOption,
    DtypeOption,
    HostOption,
    KeepOption,
    MethodOption,
    TrustOption,
    hush,
    one_line_errors,
    parse_keep,
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

PACKAGES = ("fastapi", "uvicorn", "httpx", "prometheus_client")


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}.", show_default=False)],
    keep: KeepOption = None,
    method: MethodOption = None,
    host: HostOption = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    name: ServedNameOption = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            envvar="ILLAVA_API_KEY",
            help="Require this key in requests. The variable does not show in the list of processes.",
            show_envvar=True,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Fetch pictures from this host (HOST or HOST:PORT); repeat for several.",
            show_default="pictures as data URLs only",
        ),
    ] = None,
    allow_method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD",
            help="Let requests choose this method or preset; repeat for several.",
            show_default="only that of --method",
        ),
    ] = None,
    min_keep: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Let requests choose a keep from this.", show_default="any"),
    ] = None,
    max_keep: Annotated[
        str, typer.Option(metavar="SHARE", help="Let requests choose a keep up to this.")
    ] = "1",
    temperature: TemperatureOption = 0.0,
    max_batch: Annotated[
        int, typer.Option(metavar="N", min=1, help="Answer up to this many prompts together.")
    ] = 8,
    max_wait_ms: Annotated[
        int,
        typer.Option(metavar="MS", min=0, help="Wait this long for others to join a prompt's batch."),
    ] = 20,
    max_queue: Annotated[
        int, typer.Option(metavar="N", min=1, help="Requests that may wait; further ones get status 429.")
    ] = 32,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="New tokens that a request may ask for.")
    ] = 1024,
    max_prompt_tokens: PromptTokensOption = 8192,
    max_pictures: PicturesOption = 8,
    max_frames: FramesOption = 32,
    max_megapixels: MegapixelsOption = 32,
    max_picture_mb: PictureMbOption = 8,
    max_request_mb: Annotated[float, typer.Option(metavar="MB", help="Megabytes of a request's body.")] = 32,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="From the arrival of a request to the end of its answer.")
    ] = 120,
    replicas: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Run this many processes with a model each, under Ray Serve.",
            show_default="one process, without Ray",
        ),
    ] = None,
    address: AddressOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
) -> None:
    """Serve an accelerated model with an OpenAI-compatible API.

    \b
    Examples:
      illava serve zoo/L --keep 1/9
      illava serve Qwen/Qwen2-VL-2B-Instruct --keep 1/3 --device cuda
      illava serve zoo/L --replicas 2
    """
    with one_line_errors():
        check_packages(PACKAGES)
        check_ray("--replicas", replicas, address)
        share = None if keep is None else parse_keep(keep)
        least = 0.0 if min_keep is None else parse_keep(min_keep, "--min-keep")
        most = parse_keep(max_keep, "--max-keep")
        hush()
        from ..methods.presets import make_method
        from ..serving.running import serve as run
        from ..serving.settings import Settings

        for chosen in [*([method] if method else []), *(allow_method or ())]:
            # Before the model is loaded, which takes time.
            make_method(chosen, share or 1.0)
        settings = Settings(
            name=name or served_name(model),
            keep=share,
            method=method,
            min_keep=least,
            max_keep=most,
            allowed_methods=tuple(allow_method or ()),
            temperature=temperature,
            max_tokens=max_tokens,
            max_prompt_tokens=max_prompt_tokens,
            max_request_mb=max_request_mb,
            max_picture_mb=max_picture_mb,
            max_pictures=max_pictures,
            max_frames=max_frames,
            max_megapixels=max_megapixels,
            timeout=timeout,
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            max_queue=max_queue,
            api_key=api_key,
            allowed_hosts=tuple(allow_host or ()),
        )
        if replicas is None:
            run(model, settings, host, port, device, dtype, trust_remote_code)
            return
        from ..serving import replicas as several

        source = source_of(model, device, dtype, trust_remote_code)
        several.serve(source, settings, replicas, address, host, port)
