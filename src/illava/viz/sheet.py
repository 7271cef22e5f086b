"""Draws a sheet of all steps: the kept patches, the survivors that absorbed others, and the scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..report.report import Report
from .matching import MatchedPicture, PictureInput, match_pictures, step_titles, untiled_for, view_step
from .overlay import captioned, sized, with_caption

ORANGE = "#E69F00"
"""Colour of the dots on survivors that absorbed others. No other mark is a dot."""
CIVIDIS = ((0, 34, 78), (66, 78, 108), (124, 123, 120), (185, 172, 112), (254, 232, 56))
"""Colour scale from low to high, readable with colour blindness: cividis (Nunez et al. 2018)."""
MAX_SIDE = 12_000
"""Maximum side length of a sheet in pixels."""
MAX_FRAMES = 4
"""Maximum number of frames of a video on a sheet."""


def draw_steps(pictures: Sequence[PictureInput], report: Report, *, scores: bool = True) -> Image.Image:
    """Draw all steps of a report: a column per step, a row per image, and below it a row of scores.

    For images more than twice as wide as high, the panels are stacked in one column instead.

    Args:
        pictures: the images of the prompt, in its order; a video is a sequence of its frames, of which up to
            four are drawn.
        report: ``handle.report`` of the prefill of this prompt. Scores and merges need traces.
        scores: whether to draw heat maps of the attention scores.

    Returns an RGB image. Raises InputError if the report has no patches for these images.
    """
    rows, report = [], untiled_for(pictures, report)
    for one in match_pictures(pictures, report):
        count = len(one.frames)
        for frame in sorted({i * count // min(MAX_FRAMES, count) for i in range(min(MAX_FRAMES, count))}):
            rows += frame_rows(one, report, frame, scores=scores)
    return stacked(rows)


def frame_rows(
    one: MatchedPicture, report: Report, frame: int, *, scores: bool = True
) -> list[list[Image.Image]]:
    """The panels of one frame: the kept patches, and below them the scores if there are any."""
    picture = sized(one.frames[frame])
    name = f"image {one.number + 1}" if len(one.frames) == 1 else f"frame {frame + 1}"
    first, second = [with_caption(picture, name, f"{len(_here(one, frame))} patches")], [None]
    for step, title in enumerate(step_titles(report)):
        seen = view_step(one, report, step, frame)
        panel = captioned(
            picture, _here(one, frame), seen.kept, title, lambda p, v=seen: _mark(p, v.absorbing)
        )
        first.append(panel)
        heat = None if seen.scores is None or not scores else heat_map(picture, seen.entered, seen.scores)
        second.append(heat and with_caption(heat, title, "scores: lighter is higher"))
    rows: list[list[Image.Image | None]] = [first]
    if any(second):
        rows.append(second)
    if picture.width > 2 * picture.height:
        # Stack wide panels in one column.
        return [[panel] for step in zip(*rows, strict=True) for panel in step if panel is not None]
    blank = Image.new("RGB", first[0].size, "white")
    return [[panel or blank for panel in row] for row in rows]


def heat_map(picture: Image.Image, boxes: Tensor, scores: Tensor) -> Image.Image:
    """Colour the patches of an image by the ranks of their (N,) scores; lighter is higher."""
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
    """Stack rows of panels on a white background."""
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
    # Larger images do not open in every viewer, and exceed the limits of WebP.
    out.thumbnail((MAX_SIDE, MAX_SIDE))
    return out


def _here(one: MatchedPicture, frame: int) -> Tensor:
    return one.report.all[one.report.all[:, 0] == frame]


def _mark(panel: Image.Image, boxes: Tensor) -> None:
    """Draw a dot on each survivor that absorbed others."""
    draw = ImageDraw.Draw(panel)
    for x0, y0, x1, y1 in (boxes[:, 1:] * boxes.new_tensor([*panel.size, *panel.size])).tolist():
        radius = max(2.0, min(x1 - x0, y1 - y0) / 5)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), ORANGE, "black")
