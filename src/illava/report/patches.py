"""The patches of the pictures that the encoder's units and the LLM's visual tokens represent.

Every patch is a row ``frame, x0, y0, x1, y1`` with coordinates as fractions of the picture's width and
height. They may lie outside of [0, 1] if a model pads the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..runtime.encoder.run import EncoderRun
from ..runtime.llm.fixed import prefix_features


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
    """(T, 5) fp32: the patch of each placeholder in the prompt; NaN for tokens without a patch."""


def layouts(modules: LocatedModules, run: EncoderRun, video_tokens: int | None = None) -> list[Layout]:
    """The layout of each picture of an encoder run, in order.

    ``video_tokens``: placeholders of the first video of the prompt. They determine the number of frames per
    video if the input of the encoder is the frames of all videos.
    """
    if run.grid is not None:
        return _packed(modules, run)
    if run.mixing is None:
        return _separate(modules, run)
    pooled = run.mixing[0] in ("apply_pooling", modules.family.pooler)
    return _pooled(run, video_tokens) if pooled else _tiled(modules, run)


def grid_boxes(frames: int, rows: int, columns: int) -> Tensor:
    """(frames * rows * columns, 5) boxes of a regular grid over the whole picture, frame by frame."""
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij")
    boxes = [t, x / columns, y / rows, (x + 1) / columns, (y + 1) / rows]
    return torch.stack([values.flatten().float() for values in boxes], 1)


def _packed(modules: LocatedModules, run: EncoderRun) -> list[Layout]:
    assert run.grid is not None
    side = round(run.group**0.5)
    order = modules.tower.unit_order(modules.config.vision_config, run.grid)
    out, first = [], 0
    kind = "video" if run.video else "image"
    # GLM-4V encodes a video's frames as pictures.
    grid = run.grid if run.videos is None else run.videos
    for frames, rows, columns in grid.tolist():
        tokens = grid_boxes(frames, rows // side, columns // side)
        units = tokens if order is None else tokens[order[first : first + len(tokens)].cpu() - first]
        out.append(Layout(kind, first, units, tokens))
        first += len(tokens)
    return out


def _separate(modules: LocatedModules, run: EncoderRun) -> list[Layout]:
    """Tiles that the model treats as separate pictures."""
    out, first = [], 0
    prefix, (rows, columns) = prefix_features(modules, run), run.rows_and_columns
    if rows * columns != run.full_lengths[0]:
        # Outputs of queries, which have no place.
        return []
    for n in run.full_lengths:
        units = grid_boxes(1, *run.rows_and_columns) * torch.tensor([1.0, *run.covered, *run.covered])
        # The features of class tokens and registers come first.
        tokens = torch.cat([torch.full((prefix, 5), float("nan")), units])
        if modules.family.resampler is not None:
            tokens = torch.full((run.features // len(run.full_lengths), 5), float("nan"))
        out.append(Layout("image", first, units, tokens))
        first += n
    return out


def _pooled(run: EncoderRun, video_tokens: int | None) -> list[Layout]:
    """Videos whose frames are pooled. The boxes of tokens are computed by pooling the boxes of units."""
    assert run.mixing is not None
    name, function = run.mixing[:2]
    frames, side = len(run.full_lengths), math.isqrt(run.full_lengths[0])
    # OneVision ends a video with one newline feature.
    ends = int(name == "apply_pooling")
    pooled = function(grid_boxes(1, side, side)[None])[0]
    each = frames if video_tokens is None else (video_tokens - ends) // len(pooled)
    if not each or frames % each:
        return []
    # The average of several boxes has the right centre, but the size of a single box.
    margin = (math.sqrt(side**2 / len(pooled)) - 1) / side / 2
    pooled = pooled + torch.tensor([0, -margin, -margin, margin, margin])
    units, tokens = (_frames(boxes, each) for boxes in (grid_boxes(1, side, side), pooled))
    tokens = torch.cat([tokens, torch.full((ends, 5), float("nan"))])
    return [Layout("video", i * side**2, units, tokens) for i in range(0, frames, each)]


def _frames(boxes: Tensor, count: int) -> Tensor:
    """(n, 5) boxes of a frame to (count * n, 5) boxes of ``count`` frames."""
    out = boxes.repeat(count, 1)
    out[:, 0] = torch.arange(count).repeat_interleave(len(boxes))
    return out


def _tiled(modules: LocatedModules, run: EncoderRun) -> list[Layout]:
    """Pictures split into tiles. The boxes of tokens result from the model's own packing of unit boxes."""
    assert run.mixing is not None
    _, function, tiles, args, kwargs = run.mixing
    side = math.isqrt(run.full_lengths[0])
    whole = grid_boxes(1, side, side)
    sizes = kwargs["image_sizes"] if "image_sizes" in kwargs else args[0]
    boxes = [
        _tile_boxes(modules.config, n, whole, size.tolist()) for n, size in zip(tiles, sizes, strict=True)
    ]
    newline = {**kwargs, "image_newline": torch.full((5,), float("nan"))}
    tokens, _ = function(boxes, *args, **newline)
    out, first = [], 0
    for units, rows in zip(boxes, tokens, strict=True):
        out.append(Layout("image", first, units.flatten(0, 1), rows))
        first += units.shape[0] * units.shape[1]
    return out


def _tile_boxes(config: Any, tiles: int, whole: Tensor, size: list[int]) -> Tensor:
    """(tiles, n, 5): the first tile is the whole picture; the others split a centred, padded enlargement."""
    if tiles == 1:
        return whole[None]
    from transformers.image_processing_utils import select_best_resolution

    edge = config.vision_config.image_size
    height, width = size
    canvas_height, canvas_width = select_best_resolution(size, config.image_grid_pinpoints)
    scale = min(canvas_width / width, canvas_height / height)
    scaled = torch.tensor([width * scale, height * scale])
    margin = (torch.tensor([canvas_width, canvas_height]) - scaled) / 2
    out = [whole]
    for row in range(canvas_height // edge):
        for column in range(canvas_width // edge):
            corner = torch.tensor([column, row])
            box = whole.clone()
            for corners in (slice(1, 3), slice(3, 5)):
                box[:, corners] = ((corner + box[:, corners]) * edge - margin) / scaled
            out.append(box)
    return torch.stack(out)
