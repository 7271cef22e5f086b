"""A sheet of all steps: for each picture what stayed after each, who took others in, and the scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..report.report import Report
from .overlay import captioned, sized, with_caption
from .shown import Given, Shown, as_given, shown, titles, view

ORANGE = "#E69F00"
"""Marks those that took others in; told apart from all other marks by shape too."""
CIVIDIS = ((0, 34, 78), (66, 78, 108), (124, 123, 120), (185, 172, 112), (254, 232, 56))
"""A scale that the colour-blind read as well, low to high: cividis (Nunez et al. 2018) at five places."""
MOST = 12_000
"""Pixels of a side of a sheet."""
FRAMES = 4
"""Rows for a video, at most."""


def draw_steps(pictures: Sequence[Given], report: Report, *, scores: bool = True) -> Image.Image:
    """Draw every step of a report: a column for each, a row for each picture, one below for its scores.

    Panels of pictures more than twice as wide as high go below one another.

    Args:
        pictures: of the prompt, in its order; a video is a sequence of its frames, of which a few are shown.
        report: ``handle.report`` of the prefill that saw them; with traces it tells more.
        scores: whether heat maps are drawn of what the steps went by.

    Returns an RGB picture. Raises InputError where the report has no patches for the pictures.
    """
    rows, report = [], as_given(pictures, report)
    for one in shown(pictures, report):
        count = len(one.frames)
        for frame in sorted({i * count // min(FRAMES, count) for i in range(min(FRAMES, count))}):
            rows += frame_rows(one, report, frame, scores=scores)
    return stacked(rows)


def frame_rows(one: Shown, report: Report, frame: int, *, scores: bool = True) -> list[list[Image.Image]]:
    """The panels of one frame: what stayed, and below it, where there are any, the scores."""
    picture = sized(one.frames[frame])
    name = f"picture {one.number + 1}" if len(one.frames) == 1 else f"frame {frame + 1}"
    first, second = [with_caption(picture, name, f"{len(_here(one, frame))} patches")], [None]
    for step, title in enumerate(titles(report)):
        seen = view(one, report, step, frame)
        panel = captioned(picture, _here(one, frame), seen.kept, title, lambda p, v=seen: _mark(p, v.grown))
        first.append(panel)
        heat = None if seen.scores is None or not scores else heat_map(picture, seen.came, seen.scores)
        second.append(heat and with_caption(heat, title, "scores: light is high"))
    rows: list[list[Image.Image | None]] = [first]
    if any(second):
        rows.append(second)
    if picture.width > 2 * picture.height:
        # Strips go below one another.
        return [[panel] for step in zip(*rows, strict=True) for panel in step if panel is not None]
    blank = Image.new("RGB", first[0].size, "white")
    return [[panel or blank for panel in row] for row in rows]


def heat_map(picture: Image.Image, boxes: Tensor, scores: Tensor) -> Image.Image:
    """The ranks of (N,) scores over the patches, from dark (lowest) to light; no patch, no colour."""
    order = scores.argsort(stable=True).argsort().float() / max(1, len(scores) - 1)
    width, height = picture.size
    total, count = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    edges = np.rint(np.asarray(boxes)[:, 1:] * [width, height, width, height])
    for (x0, y0, x1, y1), value in zip(edges.clip(0).astype(int), order.tolist(), strict=True):
        total[y0:y1, x0:x1] += value
        count[y0:y1, x0:x1] += 1
    rank = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    scale = np.stack(
        [np.interp(rank, np.linspace(0, 1, len(CIVIDIS)), c) for c in zip(*CIVIDIS, strict=True)], -1
    )
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    mixed = np.where(count[..., None] > 0, 0.8 * scale + 0.2 * grey, grey)
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def stacked(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of panels on white, one below the other."""
    gap = max(8, min(panel.width for row in rows for panel in row) // 48)
    width = max(sum(panel.width + gap for panel in row) for row in rows) + gap
    height = sum(max(panel.height for panel in row) + gap for row in rows) + gap
    out, top = Image.new("RGB", (width, height), "white"), gap
    for row in rows:
        left = gap
        for panel in row:
            out.paste(panel, (left, top))
            left += panel.width + gap
        top += max(panel.height for panel in row) + gap
    # More is not opened by every viewer, and WebP holds no more.
    out.thumbnail((MOST, MOST))
    return out


def _here(one: Shown, frame: int) -> Tensor:
    return one.report.all[one.report.all[:, 0] == frame]


def _mark(panel: Image.Image, boxes: Tensor) -> None:
    """A dot on each survivor that took others in."""
    draw = ImageDraw.Draw(panel)
    for x0, y0, x1, y1 in (boxes[:, 1:] * boxes.new_tensor([*panel.size, *panel.size])).tolist():
        radius = max(2.0, min(x1 - x0, y1 - y0) / 5)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), ORANGE, "black")
