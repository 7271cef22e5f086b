"""``illava plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .console import (
    KEEP_HELP,
    MODEL_HELP,
    DeviceOption,
    DtypeOption,
    JsonOption,
    PicturesOption,
    SizeOption,
    TextTokensOption,
    ThreadsOption,
    TrustOption,
    hush,
    one_line_errors,
    parse_keep,
    progress,
    writing,
)
from .plan_tables import layers, show

if TYPE_CHECKING:
    from ..planning.accelerator import AcceleratorRates
    from ..planning.machine_speed import Rates
    from ..planning.recommendation import Candidate, Recommendation

MOST_EQUALS = 8
"""The largest number of schedules of equal cost that calibration tries."""


def plan(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}; only its config is read.", show_default=False),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Plan for a published size instead of MODEL; illava bench --shape list prints the names.",
        ),
    ] = None,
    keep: Annotated[str | None, typer.Option(metavar="SHARE", help=f"Target: {KEEP_HELP.lower()}.")] = None,
    speedup: Annotated[
        float | None,
        typer.Option(
            metavar="TIMES",
            help="Target: at least this reduction of the FLOPs to the first token; of its time with "
            "--measure or --device-rates.",
        ),
    ] = None,
    kv_bytes: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Target: a KV cache of at most, e.g., 20MB after prefill."),
    ] = None,
    ttft_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            help="Target: at most this time to first token in milliseconds, on this machine or with "
            "--device-rates.",
        ),
    ] = None,
    size: SizeOption = "672",
    pictures: PicturesOption = 1,
    frames: Annotated[
        int, typer.Option(metavar="N", min=0, help="Plan for a video of N frames instead of images.")
    ] = 0,
    text_tokens: TextTokensOption = 47,
    batch: Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="Batch size.")] = 1,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure --device and predict --speedup in seconds, not FLOPs."),
    ] = False,
    device_rates: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Predict --speedup in seconds on another machine's a100, h100, l4 or rtx4090, by its data "
            "sheet and assumed launch costs.",
        ),
    ] = None,
    threads: ThreadsOption = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Among schedules of equal cost, choose the one whose first answer tokens diverge least from "
            "the plain model's on the images in FOLDER and the questions in its prompts.txt.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Write calibration results to this folder; continue a run that was stopped there.",
        ),
    ] = Path("out/plan"),
    save: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Save the method to this folder, for Method.from_pretrained."),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find a schedule that meets a target, and predict its cost.

    Give at least one target: --keep, --speedup, --kv-bytes or --ttft-ms.

    \b
    Examples:
      illava plan zoo/L --keep 1/9
      illava plan Qwen/Qwen2-VL-7B-Instruct --speedup 2 --size 1280x720
      illava plan zoo/L --speedup 1.5 --device-rates h100
      illava plan zoo/L --keep 1/9 --calibrate ./my-images --save ./my-method
    """
    with one_line_errors():
        if (model is None) == (shape is None):
            raise InputError("give either MODEL or --shape NAME; illava bench --shape list prints the names")
        if calibrate is not None and model is None:
            raise InputError("--calibrate needs weights: give MODEL instead of --shape")
        if device_rates is not None and measure:
            raise InputError("give either --device-rates NAME or --measure, not both")
        hush()
        import torch

        from ..bench.memory import parse_bytes
        from ..bench.prompts import parse_size
        from ..models.layout import resized, workload
        from ..models.loading import parse_device, parse_dtype, pixel_limits
        from ..planning.plan import plan_on
        from ..planning.predict import skeleton
        from ..planning.targets import collect_targets

        share = None if keep is None else parse_keep(keep)
        most_kv = None if kv_bytes is None else parse_bytes(kv_bytes, "--kv-bytes")
        original = parse_size(size)
        try:
            targets = collect_targets(
                share, speedup, most_kv, ttft_ms, lambda name: f"--{name}".replace("_", "-")
            )
        except ValueError as error:
            raise InputError(str(error)) from error
        prompts: list[Any] = []
        if calibrate is not None:
            from ..evaluation.calibrate import samples

            prompts = samples(calibrate)
        modules = skeleton(_config(model, shape, trust_remote_code))
        try:
            limits = None if model is None else pixel_limits(model, trust_remote_code)
            processed = resized(modules.config, original, limits, trust_remote_code)
            work = workload(modules, processed, pictures, frames, text_tokens, batch)
        except ValueError as error:
            raise InputError(str(error)) from error
        if threads is not None:
            torch.set_num_threads(threads)
        rates: Rates | AcceleratorRates | None = None
        if device_rates is not None:
            rates = _data_sheet(device_rates, dtype)
        elif measure or ttft_ms is not None:
            rates = _rates(modules, work, device, dtype)
        if not as_json and processed != original:
            resizer = (
                "This family's published processors resize" if model is None else "The processor resizes"
            )
            typer.echo("{} {} x {} pixels to {} x {}.".format(resizer, *original, *processed))
        kind = parse_dtype(dtype)
        if device_rates is not None:
            kind = None  # That of the rates.
        elif kind is None and model is not None and parse_device(device).type == "cpu":
            # The dtype that the other commands load the model in.
            kind = torch.float32
        found = plan_on(modules, work, targets, rates, None if kind is None else kind.itemsize)
        divergences: list[float] = []
        tried = [found.chosen, *sorted(found.alternatives, key=lambda one: one.divergence)[: MOST_EQUALS - 1]]
        if found.refused is not None:
            # Nothing merges, so there is nothing to compare.
            calibrate = None
        if calibrate is not None and len(tried) == 1:
            raise InputError(f"--calibrate: only one schedule meets the target; leave it out. {found.reason}")
        if calibrate is not None and model is not None:
            found, divergences = _calibrated(
                found, tried, prompts, output, model, device, dtype, trust_remote_code
            )
        if save is not None:
            with writing(save):
                found.method.save_pretrained(save)
        if as_json:
            calibration = [
                {"method": one.method.to_dict(), "divergence": value}
                for one, value in zip(tried, divergences, strict=False)
            ]
            out = {**found.to_dict(), "picture_size": processed, "calibration": calibration}
            if device_rates is not None:
                out["device_rates"] = rates.to_dict()
            typer.echo(json.dumps(out))
            return
        show(found)
        for one, value in zip(tried, divergences, strict=False):
            mark = " <- chosen" if one is found.chosen else ""
            typer.echo(f"KL {value:.4f} nats at {layers(one)}{mark}")


def _config(model: str | None, shape: str | None, trust_remote_code: bool) -> Any:
    from ..bench import published
    from ..models import loading

    return (
        loading.read_config(model, trust_remote_code) if model is not None else published.config(str(shape))
    )


def _data_sheet(name: str, dtype: str) -> AcceleratorRates:
    import torch

    from ..models.loading import parse_dtype
    from ..planning.accelerator import DATA_SHEETS, data_sheet_rates

    if name not in DATA_SHEETS:
        raise InputError(f"--device-rates {name}: unknown accelerator; give one of {', '.join(DATA_SHEETS)}")
    return data_sheet_rates(name, parse_dtype(dtype) or torch.bfloat16)


def _rates(modules: Any, work: Any, device: str, dtype: str) -> Rates | AcceleratorRates:
    import torch

    from ..models.loading import parse_device, parse_dtype
    from ..planning.clock import parts_measured, rates_on

    place = parse_device(device)
    kind = parse_dtype(dtype) or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    what = "machine" if place.type == "cpu" else "accelerator"
    with progress(f"measuring this {what}", parts_measured(place)) as advance:
        return rates_on(modules, [work], kind, place, advance)


def _calibrated(
    found: Recommendation,
    tried: list[Candidate],
    prompts: list[Any],
    output: Path,
    model: str,
    device: str,
    dtype: str,
    trust_remote_code: bool,
) -> tuple[Recommendation, list[float]]:
    from dataclasses import replace

    from ..evaluation.calibrate import calibrate
    from ..models import loading

    loaded, processor = loading.load(model, device, dtype, trust_remote_code)
    with progress("calibrating", len(tried) * len(prompts)) as advance:
        values = calibrate(loaded, processor, [one.method for one in tried], prompts, output, advance)
    best = min(range(len(tried)), key=values.__getitem__)
    reason = (
        f"of {len(tried)} schedules whose costs are within 5 %, this one diverges least from the plain model "
        f"on {len(prompts)} prompts: KL {values[best]:.4f} nats over the first tokens"
    )
    return replace(found, chosen=tried[best], reason=reason), values
