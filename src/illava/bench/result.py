"""Collect and write the results of ``illava bench``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..io.files import replacing
from ..io.texts import slug
from . import plot
from .machine import machine
from .published import SHAPES, depths
from .random_weights import weight_bytes
from .run import fits


def collect(
    model: nn.Module,
    settings: Mapping[str, Any],
    batches: Sequence[dict[str, Any]],
    budget: int | None = None,
) -> dict[str, Any]:
    """The content of the JSON file.

    Args:
        settings: ``model``, or ``shape`` and ``layers``; ``size`` (width, height), ``pictures`` and the other
            settings of the run.
        batches: as :func:`illava.bench.run.run` returns them.
        budget: bytes of memory to compute the largest batch for; None skips it.
    """
    parameter, shape = next(model.parameters()), settings["shape"]
    dtype, weights = str(parameter.dtype).removeprefix("torch."), weight_bytes(model)
    part = None if shape is None else sliced(shape, settings["layers"])
    width, height = settings["size"]
    subject = [shape or settings["model"], *([part] if part else [])]
    subject += ["random weights"] if shape else []
    count = _picture_count(settings)
    pixels = f"{count} of {width} x {height} pixels" if count else f"{width} x {height} pixels"
    title = f"{', '.join(subject)}\n{pixels}, {dtype} on {parameter.device.type}"
    rows = None if budget is None else fits(batches, model, weights, budget, settings["new_tokens"])
    return {
        "title": title,
        **settings,
        "checkpoint": SHAPES[shape].checkpoint if shape else None,
        "slice": part,
        "weights": "random weights" if shape else "the model's own",
        "parameters": sum(p.numel() for p in model.parameters()),
        "weight_bytes": weights,
        "dtype": dtype,
        "device": str(parameter.device),
        "machine": machine(),
        "largest_batch": None if rows is None else {"bytes": budget, "computed_not_tried": rows},
        "batches": list(batches),
    }


def _picture_count(settings: Mapping[str, Any]) -> str | None:
    """The number of images or frames in a prompt; None for one image."""
    if settings.get("frames"):
        return f"{settings['frames']} frames"
    return f"{settings['pictures']} pictures" if settings.get("pictures", 1) > 1 else None


def sliced(shape: str, layers: int | None) -> str | None:
    """The slice of a shape, encoder + LLM, such as "a slice of 4 + 4 layers"; None for the whole model."""
    whole = depths(shape)
    left = tuple(depth if layers is None else min(layers, depth) for depth in whole)
    return None if left == whole else f"a slice of {left[0]} + {left[1]} layers"


def write(folder: Path, result: Mapping[str, Any]) -> tuple[Path, str | None]:
    """Write the results as JSON and the plot as PNG beside it, both atomically.

    Returns the JSON file, named after model, sizes, dtype and device, and a hint if there is no plot. Raises
    OSError if the folder is not writable.
    """
    width, height = result["size"]
    parts = [slug(result["shape"] or result["model"])]
    parts += [f"{result['layers']}-layers"] if result["slice"] else []
    count = _picture_count(result)
    parts += [f"{width}x{height}", *([count.replace(" ", "-")] if count else [])]
    parts += [result["dtype"], result["device"].partition(":")[0]]
    target = folder / f"{'-'.join(parts)}.json"
    with replacing(target) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return target, plot.draw(result, target.with_suffix(".png"))
