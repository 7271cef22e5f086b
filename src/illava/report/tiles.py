"""Reassembling pictures that a processor split into tiles.

InternVL, Idefics3 and SmolVLM treat each tile as a separate picture, so their reports list tiles. The
position of each tile follows from the size of its picture, which the caller must pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..models.families import FAMILIES
from ..models.workload import Size
from .report import PictureReport, Report
from .traces import StepTrace

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def untiled(report: Report, sizes: Sequence[Size]) -> Report:
    """The same report with the pictures of the prompt instead of their tiles.

    Args:
        sizes: (width, height) of each picture of the prompt, in pixels, before the processor.

    Returns ``report`` itself if it already lists that many pictures, or if its tiles cannot be assigned to
    them.
    """
    if report.tile_edge is None or len(report.pictures) == len(sizes):
        return report
    boxes_of = [_boxes(report, size) for size in sizes]
    if sum(map(len, boxes_of)) != len(report.pictures):
        return report
    tile_boxes = [box for boxes in boxes_of for box in boxes]
    owner = [number for number, boxes in enumerate(boxes_of) for _ in boxes]
    pictures = tuple(
        _joined([(report.pictures[i], tile_boxes[i]) for i, of in enumerate(owner) if of == number])
        for number in range(len(sizes))
    )
    traces = tuple(None if trace is None else _moved(trace, tile_boxes, owner) for trace in report.traces)
    return replace(report, pictures=pictures, traces=traces)


def _boxes(report: Report, size: Size) -> list[Box]:
    """x0, y0, x1, y1 of each tile in the order of the model's input; the whole picture is last."""
    grid = FAMILIES[report.family].tiles
    assert report.tile_edge is not None
    assert grid is not None
    rows, columns = grid(report.tile_edge, size)
    if rows * columns == 1:
        return [WHOLE]
    tiles = [
        (x / columns, y / rows, (x + 1) / columns, (y + 1) / rows)
        for y in range(rows)
        for x in range(columns)
    ]
    return [*tiles, WHOLE]


def _joined(tiles: Sequence[tuple[PictureReport, Box]]) -> PictureReport:
    steps = range(len(tiles[0][0].kept))
    return PictureReport(
        "image",
        1,
        torch.cat([_inside(tile.all, box) for tile, box in tiles]),
        tuple(torch.cat([_inside(tile.kept[step], box) for tile, box in tiles]) for step in steps),
    )


def _moved(trace: StepTrace, tile_boxes: Sequence[Box], owner: Sequence[int]) -> StepTrace:
    boxes = _inside(trace.boxes, torch.tensor(tile_boxes)[trace.picture])
    return replace(trace, boxes=boxes, picture=torch.tensor(owner)[trace.picture])


def _inside(boxes: Tensor, tile: Box | Tensor) -> Tensor:
    """(n, 5) boxes in fractions of a tile, or of one tile per box (n, 4), to fractions of the picture."""
    corners = torch.as_tensor(tile).expand(len(boxes), 4)
    low, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    return torch.cat([boxes[:, :1], low + boxes[:, 1:3] * size, low + boxes[:, 3:] * size], 1)
