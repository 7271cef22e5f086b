"""Part "times": encoder, prefill, first token and decoding of published shapes, plain and merged in turn.

Weights are random. Parts of ``generate`` are marked by device events. What illava itself takes is measured in
further calls, so that its marks do not disturb the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from illava.bench import run

from ..context import Context, Row, schedules
from . import shares


def rows(context: Context) -> Iterable[Row]:
    """A row for each shape and size: four variants that were measured in turn."""
    settings = context.settings
    variants = 1 + len(schedules())
    for shape in settings.shapes:
        for number, size in enumerate(settings.sizes):
            first = context.call_seconds(shape, size, 1, 1)
            whole = context.call_seconds(shape, size, 1, settings.new_tokens)
            # Warm-up, rounds, peak memory; then the shares.
            calls = (1 + settings.rounds) * whole + context.warm_ups * first
            seconds = variants * calls + 3 * (1 + settings.share_calls) * first
            seconds += context.build_seconds(shape) if number == 0 else 0
            yield Row(f"{shape}, {size}", seconds, partial(measure, context, shape, size), str(size))


def measure(context: Context, shape: str, size: int) -> Mapping[str, Any]:
    """Times, FLOP bounds and shares of one shape at one size."""
    settings = context.settings
    model = context.model(shape)
    variants = [run.Variant(label, method) for label, method in schedules().items()]
    inputs = context.inputs(model, size)
    context.warm_up(model, inputs, [None, *schedules().values()])
    (found,) = run.run(
        model,
        lambda batch: context.inputs(model, size, batch),
        variants,
        [1],
        settings.new_tokens,
        settings.rounds,
    )
    for variant, row in zip(variants, found["variants"], strict=True):
        row["shares"] = shares.measure(model, inputs, variant.method, settings.share_calls)
    return {"shape": shape, "size": size, "layers": settings.layers, **found}
