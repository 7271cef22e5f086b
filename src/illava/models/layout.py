"""How many units and tokens pictures of a given size become: what a prompt costs begins with it.

From a config alone, without a processor: packed encoders (Qwen-VL, GLM-4V, Pixtral) take a picture at its
own size, rounded to whole units; LLaVA-NeXT, OneVision, InternVL and Idefics3 cut it into tiles; others
resize it. A processor may have limits of its own (``max_pixels``), which no config states: give the size
that it resizes to, or what :func:`resized` makes of it by the limits that are published.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import UnsupportedError
from .families import FAMILIES
from .located import LocatedModules
from .workload import Run, Size, Workload

__all__ = ["Size", "Workload", "resized", "workload"]


def workload(
    modules: LocatedModules,
    picture_size: int | Size = 672,
    pictures: int = 1,
    frames: int = 0,
    prompt_tokens: int = 47,
    batch: int = 1,
) -> Workload:
    """What a prompt of ``pictures`` equal pictures, or of a video, makes of a model.

    Args:
        picture_size: pixels of a side, or (width, height); of a video's frames too.
        frames: of one video, instead of pictures.
        prompt_tokens: text, marks around pictures included; what a family puts between the lines, tiles or
            frames of a picture comes on top.

    Raises ValueError for sizes below 1, and UnsupportedError for videos of a family that has none.
    """
    sides = picture_size if isinstance(picture_size, (tuple, list)) else (picture_size, picture_size)
    if len(sides) != 2 or any(type(side) is not int for side in sides):
        raise ValueError(f"picture_size must be a whole number or (width, height), got {picture_size!r}")
    width, height = sides
    whole = {"pictures": pictures, "frames": frames, "prompt_tokens": prompt_tokens, "batch": batch}
    for name, value in whole.items():
        if type(value) is not int:
            raise ValueError(f"{name} must be a whole number, got {value!r}")
    if frames and pictures != 1:
        raise ValueError(f"give either pictures or the frames of one video, got {pictures} and {frames}")
    for name, value in (
        ("picture_size", min(width, height)),
        ("pictures", pictures),
        ("prompt_tokens", prompt_tokens),
        ("batch", batch),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if frames < 0:
        raise ValueError(f"frames must be at least 0, got {frames}")
    if frames:
        if modules.family.video is None:
            raise UnsupportedError(
                f"{modules.family.model_type} takes no videos: give pictures instead of frames"
            )
        one = modules.family.video(modules, (width, height), frames)
        return replace(one, text=one.text + prompt_tokens, batch=batch)
    one = modules.family.picture(modules, (width, height), pictures == 1)
    runs = tuple(
        Run(tuple((s + i * len(one.segments), n) for s, n in run.shown), run.extra)
        for i in range(pictures)
        for run in one.runs
    )
    grids = None if one.grids is None else one.grids * pictures
    return Workload(one.segments * pictures, runs, one.text * pictures + prompt_tokens, batch, grids)


def resized(config: Any, size: Size, pixels: tuple[int, int] | None = None) -> Size:
    """What the processors published for a config's family make of a picture before the model sees it.

    Args:
        size: (width, height) in pixels, as the result.
        pixels: the fewest and the most pixels that the model's own processor resizes to, where known.

    A picture of a family without published limits is left as it is. Raises ValueError for what the
    processors refuse.
    """
    family = FAMILIES.get(config.model_type)
    return size if family is None or family.resize is None else family.resize(config, size, pixels)
