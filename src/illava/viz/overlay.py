"""Draws which patches of an image were kept: these keep their colours, the others become grey and striped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageStat

from ..io.pictures import InputError
from ..report.tiles import untiled

if TYPE_CHECKING:
    from torch import Tensor

    from ..report.report import Report

SHORT_SIDE = 384
"""Smaller images are enlarged until their short side has at least this many pixels."""
LONG_SIDE = 4096
"""Maximum length of the long side in pixels, so that an overlay can be opened everywhere."""
STAGES = {
    "pixels": "smaller image",
    "encoder": "after the image encoder",
    "projector": "after the projector",
    "llm": "after the LLM",
}


def draw_overlay(pictures: Sequence[Image.Image], report: Report) -> Image.Image:
    """Draw the patches kept by the last step of each stage: one panel per stage, images side by side.

    Args:
        pictures: the images of the prompt, in its order.
        report: ``handle.report`` of the prefill of this prompt.

    Returns an RGB image. Panels have the resolution of the images, within SHORT_SIDE and LONG_SIDE, and a
    caption below. Raises InputError if the report has no patches for these images.
    """
    if not all(isinstance(picture, Image.Image) for picture in pictures):
        raise InputError("give pictures; videos are drawn by draw_steps and draw_frames")
    report = untiled(report, [picture.size for picture in pictures])
    if len(report.pictures) != len(pictures):
        raise InputError(
            f"no overlay can be drawn: the report has the patches of {len(report.pictures)} pictures, "
            f"the prompt has {len(pictures)}"
        )
    last = {step.stage: index for index, step in enumerate(report.steps)}
    panels = []
    for picture, patches in zip(pictures, report.pictures, strict=True):
        at_size = sized(picture.convert("RGB"))
        for stage, index in last.items():
            panels.append(captioned(at_size, patches.all, patches.kept[index], STAGES[stage]))
        if not last:
            panels.append(captioned(at_size, patches.all, patches.all, "no merge step"))
    gap = max(8, min(panel.width for panel in panels) // 48)
    size = (sum(panel.width + gap for panel in panels) + gap, max(panel.height for panel in panels) + gap)
    sheet, left = Image.new("RGB", size, "white"), gap
    for panel in panels:
        sheet.paste(panel, (left, gap))
        left += panel.width + gap
    return sheet


def kept_share(size: tuple[int, int], patches: Tensor, kept: Tensor) -> np.ndarray:
    """For every pixel, the share of the patches covering it that were kept.

    Args:
        size: width and height of the image in pixels.
        patches: (U, 5): frame, x0, y0, x1, y1 of all patches, as fractions of the image.
        kept: (P, 5): the kept patches.

    Returns (height, width) fp32 in [0, 1]; 1 where there are no patches. A pixel has more than one patch only
    in models that process an image at several scales.
    """
    total, left = (_count(size, boxes) for boxes in (patches, kept))
    return np.divide(left, total, out=np.ones_like(total), where=total > 0).clip(0, 1)


def _count(size: tuple[int, int], boxes: Tensor) -> np.ndarray:
    width, height = size
    counts = np.zeros((height, width), np.float32)
    edges = np.asarray(boxes.detach().cpu().float()).reshape(-1, 5)[:, 1:] * [width, height, width, height]
    for x0, y0, x1, y1 in np.clip(np.rint(edges), 0, [width, height, width, height]).astype(int):
        counts[y0:y1, x0:x1] += 1
    return counts


def sized(picture: Image.Image) -> Image.Image:
    """Resize an image to the limits SHORT_SIDE and LONG_SIDE."""
    # An integer factor keeps the pixels of tiny images equally large.
    factor = min(max(1, math.ceil(SHORT_SIDE / min(picture.size))), LONG_SIDE / max(picture.size))
    size = tuple(max(1, round(edge * factor)) for edge in picture.size)
    return picture if factor == 1 else picture.resize(size, Image.Resampling.BICUBIC)


def captioned(
    picture: Image.Image,
    patches: Tensor,
    kept: Tensor,
    title: str,
    mark: Callable[[Image.Image], None] = lambda drawn: None,
) -> Image.Image:
    """An image with its kept patches and a caption of two lines; ``mark`` draws on it before the caption."""
    drawn = faded(picture, kept_share(picture.size, patches, kept))
    mark(drawn)
    return with_caption(drawn, title, f"{len(kept)} of {len(patches)} patches kept")


def with_caption(picture: Image.Image, *lines: str) -> Image.Image:
    """An image with two lines of text below it on white, the second one lighter."""
    draw = ImageDraw.Draw(picture)
    # The largest font that fits into the panel, but not smaller than is readable.
    wanted = max(12, min(picture.width // 20, 64))
    longest = max(draw.textlength(line, font=ImageFont.load_default(wanted)) for line in lines)
    font_size = max(10, int(wanted * min(1, picture.width / longest)))
    font, step = ImageFont.load_default(font_size), font_size * 4 // 3
    width = max(picture.width, *(int(draw.textlength(line, font=font)) + 1 for line in lines))
    panel = Image.new("RGB", (width, picture.height + 2 * step + font_size // 2), "white")
    panel.paste(picture, (0, 0))
    draw = ImageDraw.Draw(panel)
    draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline="#999999")
    for number, (line, ink) in enumerate(zip(lines, ("black", "#444444"), strict=True)):
        draw.text((0, picture.height + font_size // 4 + number * step), line, ink, font)
    return panel


def faded(picture: Image.Image, share: np.ndarray) -> Image.Image:
    """Fade dropped patches to a brightness unlike that of the image, and outline the kept ones."""
    pixels = np.asarray(picture, np.float32)
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    # Distinguished by brightness, not by hue: bright images fade to dark, dark ones to light.
    tone = 40 if ImageStat.Stat(picture.convert("L")).mean[0] > 110 else 215
    thickness = max(1, min(picture.size) // 384)
    # In images with both bright and dark parts, thin stripes still show which patches are faded.
    y, x = np.ogrid[: picture.height, : picture.width]
    stripes = ((x + y) % (10 * thickness) < thickness)[..., None]
    faded = 0.25 * grey + 0.75 * tone + stripes * (40 if tone < 128 else -40)
    out = faded + share[..., None] * (pixels - faded)
    out[_outline(share, thickness)] = 255 if tone < 128 else 0
    return Image.fromarray(out.round().clip(0, 255).astype(np.uint8))


def _outline(share: np.ndarray, reach: int) -> np.ndarray:
    """(height, width) bool: pixels of kept patches within ``reach`` of a patch with a smaller share."""
    padded = np.pad(share, reach, mode="edge")
    height, width = share.shape
    lowest = share
    for move in range(-reach, reach + 1):
        lowest = np.minimum(lowest, padded[reach + move : reach + move + height, reach : reach + width])
        lowest = np.minimum(lowest, padded[reach : reach + height, reach + move : reach + move + width])
    return share > lowest
