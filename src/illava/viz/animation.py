"""Draws the kept patches of a video, frame by frame, as an animated WebP."""

from __future__ import annotations

import os
from collections.abc import Sequence

from PIL import Image

from ..io.files import replacing
from ..io.pictures import InputError
from ..report.report import Report
from .matching import match_pictures
from .sheet import frame_rows, stacked


def draw_frames(frames: Sequence[Image.Image], report: Report, *, scores: bool = False) -> list[Image.Image]:
    """Draw a sheet of all steps for each frame of a video that the model processes.

    Args:
        frames: all frames of the only video of the prompt.
        report: the report of the prefill, as for :func:`illava.viz.draw_steps`.

    Raises InputError if the report does not describe exactly one video.
    """
    (video,) = match_pictures([frames], report)
    return [stacked(frame_rows(video, report, number, scores=scores)) for number in range(len(video.frames))]


def save_animation(sheets: Sequence[Image.Image], path: str | os.PathLike[str], seconds: float = 0.7) -> None:
    """Write sheets to an animated WebP file, atomically. Raises InputError if this is not possible."""
    try:
        with replacing(path) as partial:
            first, *rest = sheets
            first.save(
                partial,
                format="WEBP",
                save_all=True,
                append_images=rest,
                duration=round(1000 * seconds),
                loop=0,
                lossless=True,
            )
    except OSError as error:
        raise InputError(f"{path}: the file cannot be written: {error.strerror or error}") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: the sheets cannot be saved as an animation: {error}") from error
