"""A video with what stayed of it, frame by frame, as an animated WebP."""

from __future__ import annotations

import os
from collections.abc import Sequence

from PIL import Image

from ..io.files import replacing
from ..io.pictures import InputError
from ..report.report import Report
from .sheet import frame_rows, stacked
from .shown import shown


def draw_frames(frames: Sequence[Image.Image], report: Report, *, scores: bool = False) -> list[Image.Image]:
    """One sheet of all steps for each frame that the model works with.

    Args:
        frames: of the prompt's only video, all that were shown.
        report: as for :func:`illava.viz.draw_steps`.

    Raises InputError where the prompt showed something else.
    """
    (video,) = shown([frames], report)
    return [stacked(frame_rows(video, report, number, scores=scores)) for number in range(len(video.frames))]


def save_animation(sheets: Sequence[Image.Image], path: str | os.PathLike[str], seconds: float = 0.7) -> None:
    """Write sheets as an animated WebP, all at once; raises InputError where that is not possible."""
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
        raise InputError(f"{path}: no animation can be made of this: {error}") from error
