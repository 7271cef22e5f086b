"""The command line: ``illava plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..io.tables import new_table
from .console import (
    DeviceOption,
    DtypeOption,
    TrustOption,
    hush,
    one_line_errors,
    parse_keep,
    print_table,
    progress,
    writing,
)

if TYPE_CHECKING:
    from ..planning.machine_speed import Rates
    from ..planning.plan import Candidate, Recommendation

CURVES = 9
"""What :func:`illava.planning.machine_speed.measure_rates` measures."""
MOST_EQUALS = 8
"""Schedules of equal cost that calibration tries, at most."""


def plan(
    model: Annotated[
        str | None, typer.Argument(help="A shipped model, a folder, or a hub id: its config is enough.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="NAME", help="A published size instead, as illava bench has them.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Wish: final visual tokens / all, such as 0.33 or 1/9.")
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(help="Wish: how many times sooner the first token comes, at least.")
    ] = None,
    kv_bytes: Annotated[
        str | None, typer.Option(help="Wish: keys and values after the prompt, at most, such as 20MB.")
    ] = None,
    ttft_ms: Annotated[
        float | None, typer.Option(help="Wish: milliseconds to the first token, at most, on this machine.")
    ] = None,
    size: Annotated[str, typer.Option(help="Pixels of a picture's side, or WIDTHxHEIGHT.")] = "672",
    pictures: Annotated[int, typer.Option(min=1, help="In each prompt.")] = 1,
    frames: Annotated[int, typer.Option(min=0, help="Of a video in the pictures' place.")] = 0,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of text in each prompt.")] = 47,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Prompts at once.")] = 1,
    measure: Annotated[
        bool, typer.Option("--measure", help="Reckon --speedup in this machine's seconds, not in FLOPs.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU. Default: torch's choice.")] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Pictures of your own, and questions in prompts.txt: of schedules that cost as much, take "
            "the one whose first tokens stay nearest to the plain model's. Goes on where it was stopped.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where a calibration keeps its results as they come.")
    ] = Path("out/plan"),
    save: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the method there, for Method.from_pretrained."),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Find a schedule for a wish, and say before running it what it will bring."""
    with one_line_errors():
        from ..io.pictures import InputError

        if (model is None) == (shape is None):
            raise InputError("give either a model or --shape NAME; illava bench --shape list lists the names")
        if calibrate is not None and model is None:
            raise InputError("--calibrate needs a model with its own weights, not --shape")
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
        held = None if kv_bytes is None else parse_bytes(kv_bytes, "--kv-bytes")
        asked_for = parse_size(size)
        try:
            targets = collect_targets(share, speedup, held, ttft_ms)
        except ValueError as error:
            raise InputError(str(error)) from error
        asked: list[Any] = []
        if calibrate is not None:
            from ..evaluation.calibrate import samples

            asked = samples(calibrate)
        modules = skeleton(_config(model, shape, trust_remote_code))
        try:
            shown = resized(
                modules.config, asked_for, None if model is None else pixel_limits(model, trust_remote_code)
            )
            work = workload(modules, shown, pictures, frames, text_tokens, batch)
        except ValueError as error:
            raise InputError(str(error)) from error
        if threads is not None:
            torch.set_num_threads(threads)
        rates = None
        if measure or ttft_ms is not None:
            rates = _rates(modules, work, device, dtype)
        if not as_json and shown != asked_for:
            whose = "this family's published processors" if model is None else "this model's processor"
            typer.echo("{} x {} pixels become {} x {} by {}".format(*asked_for, *shown, whose))
        kind = parse_dtype(dtype)
        if kind is None and model is not None and parse_device(device).type == "cpu":
            # As the other commands load it.
            kind = torch.float32
        found = plan_on(modules, work, targets, rates, None if kind is None else kind.itemsize)
        divergences: list[float] = []
        tried = [found.chosen, *sorted(found.alternatives, key=lambda one: one.divergence)[: MOST_EQUALS - 1]]
        if calibrate is not None and len(tried) == 1:
            raise InputError(f"--calibrate: there is nothing to choose from. {found.reason}")
        if calibrate is not None and model is not None:
            found, divergences = _calibrated(
                found, tried, asked, output, model, device, dtype, trust_remote_code
            )
        if save is not None:
            with writing(save):
                found.method.save_pretrained(save)
        if as_json:
            called = [
                {"method": one.method.to_dict(), "divergence": value}
                for one, value in zip(tried, divergences, strict=False)
            ]
            typer.echo(json.dumps({**found.to_dict(), "picture_size": shown, "calibration": called}))
            return
        _show(found)
        for one, value in zip(tried, divergences, strict=False):
            mark = " <- taken" if one is found.chosen else ""
            typer.echo(f"KL {value:.4f} nats at {_layers(one)}{mark}")


def _config(model: str | None, shape: str | None, trust_remote_code: bool) -> Any:
    from ..bench import published
    from ..models import loading

    return (
        loading.read_config(model, trust_remote_code) if model is not None else published.config(str(shape))
    )


def _rates(modules: Any, work: Any, device: str, dtype: str) -> Rates:
    import torch

    from ..models.loading import parse_device, parse_dtype
    from ..planning.machine_speed import measure_rates

    place = parse_device(device)
    kind = parse_dtype(dtype) or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    units = max(work.segments) * modules.group
    prompt = work.text + work.visual_tokens
    with progress("measuring this machine", CURVES) as advance:
        return measure_rates(modules, units, prompt, dtype=kind, device=place, advance=advance)


def _calibrated(
    found: Recommendation,
    tried: list[Candidate],
    asked: list[Any],
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
    with progress("calibrating", len(tried) * len(asked)) as advance:
        values = calibrate(loaded, processor, [one.method for one in tried], asked, output, advance)
    best = min(range(len(tried)), key=values.__getitem__)
    reason = (
        f"of {len(tried)} schedules that cost within 5 % as much, the nearest to the plain model on "
        f"{len(asked)} prompts: KL {values[best]:.4f} nats over the first tokens"
    )
    return replace(found, chosen=tried[best], reason=reason), values


def _layers(one: Candidate) -> str:
    steps = [f"{s.stage} {s.layer}: {s.before} -> {s.after}" for s in one.prediction.steps]
    return ", ".join(steps) or "no layer: everything stays"


def _show(found: Recommendation) -> None:
    typer.echo(f"{found.reason[0].upper()}{found.reason[1:]}.")
    p = found.prediction
    steps = new_table("stage", "layer", "before", "after")
    for step in p.steps:
        steps.add_row(
            step.stage,
            "" if step.stage in ("pixels", "projector") else str(step.layer),
            str(step.before),
            str(step.after),
        )
    print_table(
        f"Visual tokens: {p.final_tokens} of {p.visual_tokens} left, {p.average_tokens:.1f} on average", steps
    )
    table = new_table("predicted", "plain", "merged", "ratio")
    rows = [
        ("encoder, GFLOPs", p.plain_cost.encoder + p.plain_cost.projector, p.cost.encoder + p.cost.projector),
        ("prefill, GFLOPs", p.plain_cost.prefill, p.cost.prefill),
        ("first token, GFLOPs", p.plain_cost.total, p.cost.total),
    ]
    for name, plain, merged in rows:
        table.add_row(name, f"{plain / 1e9:,.1f}", f"{merged / 1e9:,.1f}", f"{plain / merged:.2f}x")
    for name, plain, merged in (
        ("KV cache, MB", p.plain_cost.kv_bytes, p.cost.kv_bytes),
        ("activations at their peak, MB", p.plain_cost.peak_bytes, p.cost.peak_bytes),
    ):
        table.add_row(name, f"{plain / 1e6:,.1f}", f"{merged / 1e6:,.1f}", f"{plain / merged:.2f}x")
    if found.chosen.seconds is not None:
        merged_s, plain_s = found.chosen.seconds
        for name, part in (
            ("encoder", "encoder"),
            ("prefill", "prefill"),
            ("first token", "ttft"),
            ("a token more", "decode"),
        ):
            before, after = getattr(plain_s, part), getattr(merged_s, part)
            table.add_row(
                f"{name}, ms", f"{1e3 * before:,.1f}", f"{1e3 * after:,.1f}", f"{before / after:.2f}x"
            )
    print_table("What it will bring", table)
    wanted = {
        name: value
        for name, value in found.method.to_dict().items()
        if name in ("keep", "encoder_layers", "llm_layers", "encoder_share", "where")
    }
    typer.echo(f"Method: illava-best with {json.dumps(wanted)}")
