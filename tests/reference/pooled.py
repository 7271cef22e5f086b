"""LLaVA-NeXT-Video: pictures in tiles with line ends, and videos of which every 2x2 tokens become one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .step import Plan
from .tiles import raster, tile
from .vision import Box, Seen, arrange

SIDE = 6


def next_video(model: nn.Module, values: dict[str, Tensor], plan: Plan) -> Seen:
    return (_video if "pixel_values_videos" in values else _picture)(model, values, plan)


def _picture(model: nn.Module, values: dict[str, Tensor], plan: Plan) -> Seen:
    pixels = values["pixel_values"][0].double()
    boxes, layout = arrange(values["image_sizes"][0].tolist(), len(pixels), SIDE, model.config)
    first = range(0, len(boxes), SIDE**2)
    parts = [tile(model, one, boxes[i : i + SIDE**2], plan) for i, one in zip(first, pixels, strict=True)]
    alive = [kept for _, seen in parts for kept in seen.alive]
    tokens = torch.cat([tokens for tokens, _ in parts]).squeeze(1)
    line_end = model.model.image_newline
    features = [line_end if t is None else model.model.multi_modal_projector(tokens[t]) for t in layout]
    return Seen(
        torch.stack(features),
        [t is None or alive[t] for t in layout],
        [None if t is None else boxes[t] for t in layout],
        steps=_steps([seen for _, seen in parts]),
    )


def _video(model: nn.Module, values: dict[str, Tensor], plan: Plan) -> Seen:
    """A pooled token is the mean of those tokens that are left, and is gone unless half of them are."""
    features: list[Tensor] = []
    alive: list[bool] = []
    boxes: list[Box | None] = []
    parts = []
    for number, frame in enumerate(values["pixel_values_videos"][0].double()):
        tokens, seen = tile(model, frame, raster(SIDE, number), plan)
        parts.append(seen)
        boxes += raster(SIDE // 2, number)
        for y in range(0, SIDE, 2):
            for x in range(0, SIDE, 2):
                square = [(y + dy) * SIDE + x + dx for dy in (0, 1) for dx in (0, 1)]
                left = [tokens[t, 0] for t in square if seen.alive[t]]
                alive.append(len(left) >= 2)
                mean = sum(left) / len(left) if left else torch.zeros_like(tokens[0, 0])
                features.append(model.model.multi_modal_projector(mean))
    return Seen(torch.stack(features), alive, boxes, steps=_steps(parts), video=True)


def _steps(parts: list[Seen]) -> list[tuple[int, list[Box]]]:
    """The steps of a picture, from those of its tiles or frames."""
    return [
        (sum(before for before, _ in steps), [box for _, boxes in steps for box in boxes])
        for steps in zip(*(part.steps for part in parts), strict=True)
    ]
