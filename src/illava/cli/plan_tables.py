"""What ``illava plan`` prints: the steps of a schedule, and its predicted cost beside the plain model's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from ..io.tables import new_table
from .console import print_table

if TYPE_CHECKING:
    from ..planning.recommendation import Candidate, Recommendation


def layers(one: Candidate) -> str:
    """The steps of a schedule, in one line."""
    steps = [f"{step.place}: {step.before} -> {step.after}" for step in one.prediction.steps]
    return ", ".join(steps) or "no layer: all tokens are kept"


def show(found: Recommendation) -> None:
    """Print a recommendation."""
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
        f"Visual tokens: {p.final_tokens} of {p.visual_tokens} left, {p.average_tokens:.1f} on average over "
        "the LLM's layers",
        steps,
    )
    table = new_table("", "plain", "merged", "plain / merged")
    rows = [
        (
            "image encoder, GFLOPs",
            p.plain_cost.encoder + p.plain_cost.projector,
            p.cost.encoder + p.cost.projector,
        ),
        ("prefill, GFLOPs", p.plain_cost.prefill, p.cost.prefill),
        ("to the first token, GFLOPs", p.plain_cost.total, p.cost.total),
    ]
    for name, plain, merged in rows:
        table.add_row(name, f"{plain / 1e9:,.1f}", f"{merged / 1e9:,.1f}", f"{plain / merged:.2f}x")
    for name, plain, merged in (
        ("KV cache, MB", p.plain_cost.kv_bytes, p.cost.kv_bytes),
        ("peak activations, MB", p.plain_cost.peak_bytes, p.cost.peak_bytes),
    ):
        table.add_row(name, f"{plain / 1e6:,.1f}", f"{merged / 1e6:,.1f}", f"{plain / merged:.2f}x")
    if found.chosen.seconds is not None:
        merged_s, plain_s = found.chosen.seconds
        for name, part in (
            ("image encoder", "encoder"),
            ("prefill", "prefill"),
            ("time to first token", "ttft"),
            ("decode, per token", "decode"),
        ):
            before, after = getattr(plain_s, part), getattr(merged_s, part)
            table.add_row(
                f"{name}, ms", f"{1e3 * before:,.1f}", f"{1e3 * after:,.1f}", f"{before / after:.2f}x"
            )
        for name, part in (("merging itself", "merging"), ("launches", "launches")):
            before, after = getattr(plain_s, part), getattr(merged_s, part)
            if after:
                table.add_row(f"{name}, ms", f"{1e3 * before:,.1f}", f"{1e3 * after:,.1f}", "")
    print_table("Predicted cost", table)
    wanted = {
        name: value
        for name, value in found.method.to_dict().items()
        if name in ("keep", "encoder_layers", "llm_layers", "encoder_share", "where")
    }
    name = "downsample" if found.chosen.placement.smaller_picture else "illava-best"
    typer.echo(f"Method: {name} with {json.dumps(wanted)}")
