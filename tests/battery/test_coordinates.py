"""The report's boxes lie where the pixels are: of the encoder's units and of the LLM's tokens.

A square of a picture is painted, the picture goes through transformers' own image processor, and the plain
model tells which units and tokens change: units by what enters the encoder's first block, tokens by what
enters the LLM when no block of the encoder does anything, so that nothing mixes them.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import illava
from tests.battery.naive import (
    all_units,
    attention_of,
    blank_columns,
    blocks_of,
    entering,
    hooked,
    layers_of,
    mlp_of,
    visual_columns,
)
from tests.battery.shown import WHOLE, canvases, processed
from tests.battery.test_battery import RECURRENT, model_of
from tests.tiny import ALL, RESAMPLED, WITH_VIDEO, kind, prompt, video, video_prompt

# Keeps all units and tokens there are here.
METHOD = {"encoder_layers": (1,), "encoder_keep": 0.9999, "llm_layers": (2,), "llm_keep": 0.9999}
Tile = tuple[float, float, float, float]


def nothing(module: nn.Module, args: Any, output: Any) -> Any:
    """In place of what a part of a block adds."""
    return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0


def entries(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(N, d) tokens that enter the encoder and (B, L, d) that enter the LLM, with idle blocks between."""
    patches: list[Tensor] = []
    tokens: list[Tensor] = []
    with contextlib.ExitStack() as stack, torch.no_grad():
        for block in blocks_of(model):
            for part in (attention_of(block), mlp_of(block)):
                stack.enter_context(hooked(part.register_forward_hook, nothing))
        stack.enter_context(entering(blocks_of(model)[0], patches))
        stack.enter_context(entering(layers_of(model)[0], tokens))
        model(**inputs)
    return patches[0], tokens[0]


def reactions(model: nn.Module, inputs: dict[str, Tensor], painted: dict[str, Tensor]) -> list[Tensor]:
    """How much every unit, and every token that shows a patch, changes by the paint."""
    (patches, tokens), (now, tokens_now) = entries(model, inputs), entries(model, painted)
    lengths = [patches.shape[-2]] * (len(patches) if patches.dim() == 3 else 1)
    changed = (now - patches).norm(dim=-1).reshape(-1, lengths[0])
    units = (
        [
            changed[segment, unit].max()
            for segment, own in enumerate(all_units(model, inputs, lengths))
            for unit in own
        ]
        if kind(model) not in ("lines", "patches")
        else _of_pictures(model, inputs, changed[0])
    )
    blank = blank_columns(model, inputs, tokens)
    places = [(b, c) for b, runs in enumerate(visual_columns(inputs)) for own in runs for c in own]
    rows, columns = zip(*(place for place in places if place not in blank), strict=True)
    return [torch.stack(units), (tokens_now - tokens).norm(dim=-1)[list(rows), list(columns)]]


def _of_pictures(model: nn.Module, inputs: dict[str, Tensor], changed: Tensor) -> list[Tensor]:
    out, first = [], 0
    for own in all_units(model, inputs, []):
        out += [changed[[first + token for token in unit]].max() for unit in own]
        first += sum(map(len, own))
    return out


def boxes(model: nn.Module, inputs: dict[str, Tensor]) -> list[list[Tensor]]:
    """Of the units and of the tokens of every picture of the report."""
    method = dict(METHOD, llm_layers=() if model.config.model_type in RECURRENT else (2,))
    with illava.accelerate(model, illava.Illava(**method)) as handle, torch.no_grad():
        model(**inputs)
    pictures = handle.report.pictures
    return [[picture.all for picture in pictures], [picture.kept[-1] for picture in pictures]]


def check(reacted: Tensor, regions: Tensor, mark: Tensor, blur: float) -> None:
    """(n,) reactions of (n, 5) boxes to paint on ``mark``; ``blur``: how far it may spread, in boxes."""
    frame, *mark_corners = mark.tolist()
    x0, y0, x1, y1 = mark_corners
    wide, high = (
        (regions[:, 3] - regions[:, 1]).amin(),
        (regions[:, 4] - regions[:, 2]).amin(),
    )
    across = torch.maximum(regions[:, 1] - x1, x0 - regions[:, 3]) / wide
    down = torch.maximum(regions[:, 2] - y1, y0 - regions[:, 4]) / high
    far = (torch.maximum(across, down) > blur - 1e-4) | (regions[:, 0] != frame)
    close = 1e-4
    inside = (regions[:, 1] > x0 - close) & (regions[:, 2] > y0 - close) & (regions[:, 0] == frame)
    inside &= (regions[:, 3] < x1 + close) & (regions[:, 4] < y1 + close)
    assert not reacted[far].any(), "a box away from the paint changes"
    assert (reacted[inside] > 0.05 * reacted.max()).all(), "a box in the paint does not"
    assert not far[reacted.argmax()]
    # Ovis2 mixes rows of a table, which little paint changes little.
    assert reacted.max() > 0.05


CELLS = ("first", "last", "inner")


def cell(rows: int, columns: int, which: str) -> tuple[int, int]:
    return {"first": (0, 0), "last": (rows - 1, columns - 1), "inner": (rows // 2, columns // 3)}[which]


@pytest.mark.parametrize("name", ALL)
def test_boxes_lie_over_what_they_show(name: str) -> None:
    model = model_of(name, "eager")
    drawn = canvases(model)
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *canvas.pixels, generator=generator) for canvas in drawn]
    plain = [processed(model, canvas, image) for canvas, image in zip(drawn, images, strict=True)]
    inputs = prompt(model, [([5, 6, 7], plain)])
    regions = boxes(model, inputs)
    tiles: list[tuple[int, Tile]] = [(i, tile) for i, canvas in enumerate(drawn) for tile in canvas.tiles]
    for number, which in ((0, "first"), (0, "inner"), (0, "last"), (1, "first"), (1, "last")):
        canvas = drawn[number]
        row, column = cell(*canvas.cells, which)
        (height, width), (rows, columns) = canvas.pixels, canvas.cells
        top, bottom = (round(height * y / rows) for y in (row, row + 1))
        left, right = (round(width * x / columns) for x in (column, column + 1))
        image = images[number].clone()
        image[:, top:bottom, left:right] = 4
        parts = [*plain]
        parts[number] = processed(model, canvas, image)
        painted = prompt(model, [([5, 6, 7], parts)])
        for reacted, those in zip(reactions(model, inputs, painted), regions, strict=True):
            if sum(map(len, those)) != len(reacted):
                assert name in (*RECURRENT, *RESAMPLED)
                continue
            assert len(those) == len(tiles)
            split = reacted.split([len(own) for own in those])
            for (shown, tile), own, changed in zip(tiles, those, split, strict=True):
                x0, y0, x1, y1 = tile
                wide, high = x1 - x0, y1 - y0
                mark = torch.tensor(
                    [
                        0,
                        (left / width - x0) / wide,
                        (top / height - y0) / high,
                        (right / width - x0) / wide,
                        (bottom / height - y0) / high,
                    ]
                )
                if shown != number or not (mark[1:3] < 0.999).all() or not (mark[3:] > 0.001).all():
                    assert not changed.any(), "another picture's or tile's unit changes"
                    continue
                blur = 1.0 if canvas.resampled and (tile == WHOLE or kind(model) == "anyres") else 0.0
                check(changed, own, mark, blur)


@pytest.mark.parametrize("name", WITH_VIDEO)
def test_boxes_of_a_video_lie_over_what_they_show(name: str) -> None:
    model = model_of(name, "eager")
    shown = video(model, 3)
    pixels = shown.values["pixel_values_videos"]
    inputs = video_prompt(model, [5, 6, 7], [], shown)
    regions = boxes(model, inputs)
    rows, columns = (6, 6) if kind(model) == "anyres" else (2, 3)
    for frame, which in ((0, "first"), (1, "inner"), (2, "last")):
        row, column = cell(rows, columns, which)
        painted = pixels.clone()
        if kind(model) == "anyres":
            painted[0, frame, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] = 4
        else:
            first = (frame * rows + row) * columns + column
            painted[first * 4 : first * 4 + 4] = 4
        mark = torch.tensor([frame, column / columns, row / rows, (column + 1) / columns, (row + 1) / rows])
        for reacted, those in zip(
            reactions(model, inputs, inputs | {"pixel_values_videos": painted}), regions, strict=True
        ):
            (own,) = those
            if len(own) == len(reacted):
                check(reacted, own, mark, 0.0)
            else:
                assert name in (*RECURRENT, *RESAMPLED)
