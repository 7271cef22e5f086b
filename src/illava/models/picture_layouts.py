"""Layouts that several families share: from the size of a picture or video to units and tokens.

A layout takes the modules of a model, a size (width, height) in pixels, and whether the prompt has a single
picture; for videos the number of frames instead.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch

from ..compat.calls import Call
from .workload import Run, Size, Workload, check_aspect_ratio, first

if TYPE_CHECKING:
    from .located import LocatedModules

ANYRES_FUNCTIONS = {
    ("transformers.models.llava_next.modeling_llava_next", "image_size_to_num_patches"): Call(
        ("image_size", "grid_pinpoints", "patch_size"), optional=True
    ),
    ("transformers.image_processing_utils", "select_best_resolution"): Call(
        ("original_size", "possible_resolutions"), optional=True
    ),
}
"""Functions of transformers called by the layouts and reports of tiled pictures."""
TIME_TOKENS = 6
"""Tokens of the timestamp that Qwen3-VL and GLM-4V write before a frame: "<0.3 seconds>"."""
FRAME_MARKS = TIME_TOKENS + 2
"""Timestamp tokens, and one special token before and one after a frame."""


def tile_side(vision: Any) -> int:
    """Patches per side of the input of an encoder with a fixed input size."""
    return first(vision.image_size) // first(vision.patch_size)


def tile_units(modules: LocatedModules) -> int:
    """Units of one input of an encoder with a fixed input size."""
    return tile_side(modules.config.vision_config) ** 2 // modules.group


def whole_picture(modules: LocatedModules, size: Size, single: bool) -> Workload:
    """The processor resizes every picture to one size: that of the config, or ``size`` if the encoder takes
    pictures of any size."""
    if modules.family.encoder_refusal and modules.family.features is not None:
        features = modules.family.features(modules.config)
        return Workload((features,), (Run(((0, features),)),), 0)
    rows = columns = tile_side(modules.config.vision_config)
    if modules.tower.any_size:
        patch, (width, height) = first(modules.config.vision_config.patch_size), size
        rows, columns = height // patch, width // patch
        if not rows * columns:
            raise ValueError(f"a picture of {width} x {height}: each side must have at least {patch} pixels")
    family, units = modules.family, rows * columns // modules.group
    grids = ((rows, columns),) if modules.tower.any_size else None
    if family.resampler is not None and family.features is not None:
        return Workload((units,), (Run((), family.features(modules.config)),), 0, grids=grids)
    prefix = family.prefix_features(modules.config)
    return Workload((units,), (Run(((0, units),), prefix, prefix),), 0, grids=grids)


def packed_picture(modules: LocatedModules, size: Size, single: bool) -> Workload:
    """Qwen-VL and GLM-4V encode a picture at its own size, rounded to whole units."""
    rows, columns = _packed_grid(modules, size)
    units = rows * columns
    return Workload((units,), (Run(((0, units),)),), 0, grids=((rows, columns),))


def picture_in_lines(modules: LocatedModules, size: Size, single: bool) -> Workload:
    """Pixtral encodes a picture at its own size, rounded up to whole units; a token marks each line end."""
    unit = _unit(modules)
    width, height = size
    rows, columns = math.ceil(height / unit), math.ceil(width / unit)
    lines = tuple(Run(((0, columns),)) for _ in range(rows))
    return Workload((rows * columns,), lines, rows, grids=((rows, columns),))


def anyres_tiles(config: Any, size: Size) -> int:
    """Number of tiles into which LLaVA-NeXT's processor splits a picture, including the whole picture."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    width, height = size
    edge = first(config.vision_config.image_size)
    return int(image_size_to_num_patches([height, width], config.image_grid_pinpoints, edge))


def anyres_picture(modules: LocatedModules, size: Size, single: bool) -> Workload:
    """LLaVA-NeXT splits a picture into tiles, whose features the model packs into one sequence.

    The model's own packing runs on features that hold the number of their tile; this gives the tokens of each
    tile.
    """
    config, (width, height) = modules.config, size
    side, tiles = tile_side(config.vision_config), anyres_tiles(config, size)
    numbered = torch.arange(tiles).float()[:, None, None].expand(tiles, side**2, 1)
    function: Any = modules.base.pack_image_features
    options: dict[str, Any] = {
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", "default"),
        "vision_aspect_ratio": getattr(config, "vision_aspect_ratio", "anyres_max_9"),
    }
    known = inspect.signature(function).parameters
    rows, _ = function(
        [numbered],
        torch.tensor([[height, width]]),
        image_newline=torch.full((1,), -1.0),
        **{name: value for name, value in options.items() if name in known},
    )
    values = rows[0].flatten().round().long()
    counts = torch.bincount(values[values >= 0], minlength=tiles).tolist()
    run = Run(tuple(enumerate(counts)), int((values < 0).sum()))
    return Workload((side**2,) * tiles, (run,), 0)


def packed_video(modules: LocatedModules, size: Size, frames: int) -> Workload:
    """A video whose frames are encoded in groups and are contiguous in the prompt."""
    steps, grid = _steps(modules, size, frames)
    units = grid[0] * grid[1]
    run = Run(tuple((t, units) for t in range(steps)))
    return Workload((units,) * steps, (run,), 0, grids=(grid,) * steps, video=True)


def timed_video(modules: LocatedModules, size: Size, frames: int) -> Workload:
    """The same, with a timestamp and a special token before each group of frames, and one after."""
    steps, grid = _steps(modules, size, frames)
    units = grid[0] * grid[1]
    runs = tuple(Run(((t, units),)) for t in range(steps))
    # The special tokens of one picture are included in the prompt's text.
    return Workload((units,) * steps, runs, FRAME_MARKS * steps - 2, grids=(grid,) * steps, video=True)


def pooled_video(units: int, tokens: int, frames: int, extra: int = 0) -> Workload:
    """A video whose frames are pooled from ``units`` to ``tokens`` each, with ``extra`` tokens at the end."""
    return Workload(
        (units,) * frames, (Run(tuple((t, tokens) for t in range(frames)), extra),), 0, video=True
    )


def resize_to_units(
    config: Any, size: Size, pixels: tuple[int, int] | None = None, *, units: tuple[int, int]
) -> Size:
    """The size to which Qwen-VL's processors resize a picture: whole units, within limits.

    Args:
        pixels: minimum and maximum number of pixels. None: those of ``units``.
        units: minimum and maximum number of units.

    Raises ValueError for sizes that the processors refuse.
    """
    unit = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    least, most = pixels or (count * unit**2 for count in units)
    check_aspect_ratio(size)
    return multiples_within(size, unit, least, most)


def multiples_within(size: Size, unit: int, least: int, most: int) -> Size:
    """The multiples of ``unit`` pixels nearest to a size, whose product lies between two limits.

    The rule of Qwen2-VL's image processor (``smart_resize`` in transformers). If the product of the nearest
    multiples is outside the limits, the picture is first scaled, with its aspect ratio, to the limit itself;
    its sides are then rounded down where it was too large, but not to 0, and up where it was too small.

    Args:
        size: two sides in pixels.
        least, most: limits of the number of pixels.
    """
    a, b = (round(side / unit) * unit for side in size)
    if a * b > most:
        # Divided by the scale and not multiplied by its inverse, which could round to another integer.
        scale = math.sqrt(math.prod(size) / most)
        a, b = (max(unit, math.floor(side / scale / unit) * unit) for side in size)
    elif a * b < least:
        scale = math.sqrt(least / math.prod(size))
        a, b = (math.ceil(side * scale / unit) * unit for side in size)
    return a, b


def _unit(modules: LocatedModules) -> int:
    """Side of a unit in pixels, for packed encoders."""
    return first(modules.config.vision_config.patch_size) * math.isqrt(modules.group)


def _packed_grid(modules: LocatedModules, size: Size) -> Size:
    unit = _unit(modules)
    width, height = size
    check_aspect_ratio(size)
    return max(1, round(height / unit)), max(1, round(width / unit))


def _steps(modules: LocatedModules, size: Size, frames: int) -> tuple[int, Size]:
    grid = _packed_grid(modules, size)
    return math.ceil(frames / getattr(modules.config.vision_config, "temporal_patch_size", 1)), grid
