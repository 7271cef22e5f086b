"""Where in the pictures the encoder's units and the LLM's visual tokens come from.

Every patch is a row ``frame, x0, y0, x1, y1`` with coordinates as fractions of the picture's width and
height. They may stick out of [0, 1] where a model pads the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .families import ModelParts
from .stages.encoder import EncoderRun


@dataclass
class Layout:
    """One picture or video in an encoder run."""

    kind: str
    """"image" or "video"."""
    first_unit: int
    """Index of its first unit among all units of the run."""
    units: Tensor
    """(U, 5) fp32: the patch of each unit, in the run's own order."""
    tokens: Tensor
    """(T, 5) fp32: the patch of each placeholder in the prompt; NaN for tokens that show no patch."""


def layouts(parts: ModelParts, run: EncoderRun) -> list[Layout]:
    """Every picture of an encoder run, in order."""
    return _packed(parts, run) if run.grid is not None else _tiled(parts, run)


def grid_boxes(frames: int, rows: int, columns: int) -> Tensor:
    """(frames * rows * columns, 5) boxes of a regular grid over the whole picture, frame by frame."""
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij")
    boxes = [t, x / columns, y / rows, (x + 1) / columns, (y + 1) / rows]
    return torch.stack([values.flatten().float() for values in boxes], 1)


def _packed(parts: ModelParts, run: EncoderRun) -> list[Layout]:
    assert run.grid is not None
    side = round(run.group**0.5)
    order = parts.family.unit_order(parts, run.grid)
    out, first = [], 0
    for frames, rows, columns in run.grid.tolist():
        tokens = grid_boxes(frames, rows // side, columns // side)
        units = tokens if order is None else tokens[order[first : first + len(tokens)].cpu() - first]
        out.append(Layout("video" if frames > 1 else "image", first, units, tokens))
        first += len(tokens)
    return out


def _tiled(parts: ModelParts, run: EncoderRun) -> list[Layout]:
    """Tiles of LLaVA-OneVision; token boxes by running the model's own packing on the boxes of the units."""
    if run.mixing is None:
        return []
    name, function, tiles, args, kwargs = run.mixing
    side = round(run.full_lengths[0] ** 0.5)
    whole = grid_boxes(1, side, side)
    if name == "apply_pooling":
        frames = len(run.full_lengths)
        units = whole.repeat(frames, 1, 1)
        units[..., 0] = torch.arange(frames)[:, None]
        tokens = function(units).flatten(0, 1)
        # One newline feature closes a video.
        return [
            Layout("video", 0, units.flatten(0, 1), torch.cat([tokens, torch.full((1, 5), float("nan"))]))
        ]
    sizes = kwargs["image_sizes"] if "image_sizes" in kwargs else args[0]
    boxes = [_tile_boxes(parts.config, n, whole, size.tolist()) for n, size in zip(tiles, sizes, strict=True)]
    newline = {**kwargs, "image_newline": torch.full((5,), float("nan"))}
    tokens, _ = function(boxes, *args, **newline)
    out, first = [], 0
    for units, rows in zip(boxes, tokens, strict=True):
        out.append(Layout("image", first, units.flatten(0, 1), rows))
        first += units.shape[0] * units.shape[1]
    return out


def _tile_boxes(config: Any, tiles: int, whole: Tensor, size: list[int]) -> Tensor:
    """(tiles, n, 5): the first tile shows the whole picture, the others a centred, padded enlargement."""
    if tiles == 1:
        return whole[None]
    from transformers.image_processing_utils import select_best_resolution

    edge = config.vision_config.image_size
    height, width = size
    canvas_height, canvas_width = select_best_resolution(size, config.image_grid_pinpoints)
    scale = min(canvas_width / width, canvas_height / height)
    shown = torch.tensor([width * scale, height * scale])
    margin = (torch.tensor([canvas_width, canvas_height]) - shown) / 2
    out = [whole]
    for row in range(canvas_height // edge):
        for column in range(canvas_width // edge):
            corner = torch.tensor([column, row])
            box = whole.clone()
            for corners in (slice(1, 3), slice(3, 5)):
                box[:, corners] = ((corner + box[:, corners]) * edge - margin) / shown
            out.append(box)
    return torch.stack(out)
