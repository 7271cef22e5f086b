"""The number of units and tokens of pictures of a given size, on which the cost of a prompt depends.

It is computed from the config only, without a processor. Packed encoders (Qwen-VL, GLM-4V, Pixtral) encode a
picture at its own size, rounded to whole units; LLaVA-NeXT, OneVision, InternVL and Idefics3 split it into
tiles; others resize it to a fixed size, which for DINOv2 in LLaVA is the processor's and not the config's. A
processor may have its own limits (``max_pixels``), which are not in the config: pass the size after resizing,
or use :func:`resized`, which applies the published limits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import UnsupportedError
from .families import FAMILIES
from .located import LocatedModules
from .processed import ANY_PICTURE, processed_size, takes_any_size
from .workload import Size, Workload

__all__ = ["Size", "Workload", "resized", "workload"]


def workload(
    modules: LocatedModules,
    picture_size: int | Size | None = None,
    pictures: int = 1,
    frames: int = 0,
    prompt_tokens: int = 47,
    batch: int = 1,
) -> Workload:
    """The workload of a prompt with ``pictures`` equal pictures, or with one video.

    Args:
        picture_size: side in pixels, or (width, height), of the pictures or of a video's frames, after the
            processor. Encoders with a fixed input size ignore it. None: 672; for encoders that take a whole
            picture at any size (DINOv2), what the processor beside the weights makes of it.
        frames: number of frames of one video, instead of pictures.
        prompt_tokens: text tokens, including the special tokens around pictures. Tokens that a family inserts
            between the lines, tiles or frames of a picture are added to this.

    Raises ValueError for sizes below 1, and UnsupportedError for videos if the family does not support them.
    """
    if picture_size is None:
        config, family = modules.config, modules.family
        picture_size = processed_size(family, config) if takes_any_size(family, config) else ANY_PICTURE
    sides = picture_size if isinstance(picture_size, (tuple, list)) else (picture_size, picture_size)
    if len(sides) != 2 or any(type(side) is not int for side in sides):
        raise ValueError(f"picture_size must be a whole number or (width, height), got {picture_size!r}")
    width, height = sides
    integers = {"pictures": pictures, "frames": frames, "prompt_tokens": prompt_tokens, "batch": batch}
    for name, value in integers.items():
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
                f"{modules.family.model_type} does not support videos: give pictures instead of frames"
            )
        one = modules.family.video(modules, (width, height), frames)
        return replace(one, text=one.text + prompt_tokens, batch=batch)
    one = modules.family.picture(modules, (width, height), pictures == 1)
    runs = tuple(
        replace(run, segment_tokens=tuple((s + i * len(one.segments), n) for s, n in run.segment_tokens))
        for i in range(pictures)
        for run in one.runs
    )
    grids = None if one.grids is None else one.grids * pictures
    return Workload(one.segments * pictures, runs, one.text * pictures + prompt_tokens, batch, grids)


def resized(
    config: Any, size: Size, pixels: tuple[int, int] | None = None, trust_remote_code: bool = False
) -> Size:
    """The size to which the published processors of a config's family resize a picture.

    For encoders that take a whole picture at any size (DINOv2), that of the model's own processor.

    Args:
        size: (width, height) in pixels.
        pixels: minimum and maximum number of pixels of the model's own processor, if known.
        trust_remote_code: run Python code that comes with the processor.

    Returns (width, height) in pixels. Without published limits, the size is unchanged. Raises ValueError for
    sizes that the processors refuse.
    """
    family = FAMILIES.get(config.model_type)
    if family is not None and takes_any_size(family, config):
        return processed_size(family, config, size, trust_remote_code)
    return size if family is None or family.resize is None else family.resize(config, size, pixels)
