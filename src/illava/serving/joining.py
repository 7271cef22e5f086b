"""Joins the inputs of single prompts to those of a batch, so that no picture is processed twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Fields of (1, L), padded on the left."""
STACKED = (
    "pixel_values",
    "pixel_attention_mask",
    "image_sizes",
    "image_grid_thw",
    "batch_num_images",
    "pixel_values_videos",
    "image_sizes_videos",
    "video_grid_thw",
    "second_per_grid_ts",
)
"""Fields whose first dimension counts prompts, pictures or patches, in order: processors concatenate them."""
FILLED = ("pixel_values", "pixel_attention_mask")
"""Those whose other dimensions (tiles, height, width) processors fill with zeros at their ends."""


def join(processor: Any, inputs: Sequence[Mapping[str, Any]]) -> BatchFeature | None:
    """The inputs that the processor makes of all prompts together, without calling it.

    Args:
        inputs: what it made of each prompt alone: tensors on the CPU, text of (1, L).

    Returns None where this is not known to be equal: fields of other names, prompts with different fields,
    videos of different sizes, and texts that the tokenizer cannot pad.
    """
    first = inputs[0]
    if any(set(one) != set(first) for one in inputs) or not {"input_ids", "attention_mask"} <= set(first):
        return None
    padding = _padding(processor)
    joined: dict[str, Tensor] = {}
    for name in first:
        values = [one[name] for one in inputs]
        if not all(isinstance(value, Tensor) for value in values):
            return None
        if name in TEXT:
            rows = _pad(values, padding[name])
        elif name in STACKED:
            rows = _concatenate(values, fill=name in FILLED)
        else:
            return None
        if rows is None:
            return None
        joined[name] = rows
    return BatchFeature(joined)


def _padding(processor: Any) -> dict[str, int | None]:
    """What pads each field of the text."""
    tokenizer = processor.tokenizer
    # Kinds of tokens are counted from 0, which is text.
    return {
        "input_ids": tokenizer.pad_token_id,
        "attention_mask": 0,
        "token_type_ids": tokenizer.pad_token_type_id,
        "mm_token_type_ids": 0,
    }


def _pad(values: Sequence[Tensor], filler: int | None) -> Tensor | None:
    """(1, L) tensors to one of (B, longest L), filled on the left."""
    if filler is None or any(value.ndim != 2 or len(value) != 1 for value in values):
        return None
    longest = max(value.shape[1] for value in values)
    return torch.cat([torch.nn.functional.pad(v, (longest - v.shape[1], 0), value=filler) for v in values])


def _concatenate(values: Sequence[Tensor], fill: bool) -> Tensor | None:
    """The tensors along their first dimension. If others differ: filled with zeros if ``fill``, or None."""
    if len({(value.dtype, value.ndim) for value in values}) > 1 or not values[0].ndim:
        return None
    sizes = [max(dimension) for dimension in zip(*(value.shape[1:] for value in values), strict=True)]
    missing = [[most - size for most, size in zip(sizes, value.shape[1:], strict=True)] for value in values]
    if not fill and any(map(any, missing)):
        return None
    # ``pad`` takes (before, after) of the last dimension first.
    pads = [[n for size in reversed(one) for n in (0, size)] for one in missing]
    return torch.cat([torch.nn.functional.pad(v, pad) for v, pad in zip(values, pads, strict=True)])
