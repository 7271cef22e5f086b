"""How a model's family cuts up pictures of a given size: what a prompt costs begins with it.

From a config alone, without a processor: packed encoders (Qwen-VL, GLM-4V, Pixtral) take a picture at its
own size, rounded to whole units; LLaVA-NeXT, OneVision, InternVL and Idefics3 cut it into tiles; others
resize it. A processor may have limits of its own (``max_pixels``), which no config states: give the size
behind those, or what :func:`resized` makes of it by the limits that are published.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import UnsupportedError
from .located import LocatedModules

MOST_TILES = 12
"""Tiles of InternVL's processor, at most; with more than one a small whole picture comes on top."""
IDEFICS_EDGE = 4
"""Idefics3 and SmolVLM enlarge a picture until its longer edge has that many tiles."""
UNITS = {"qwen2_vl": (4, 16384), "qwen2_5_vl": (4, 16384), "qwen3_vl": (64, 16384)}
"""The fewest and the most units of a picture to which the published processors of a family resize."""
MOST_STRETCHED = 200
"""Times that one side may be as long as the other: beyond it the processors of Qwen-VL and GLM-4V refuse."""
TIME_TOKENS = 6
"""What Qwen3-VL and GLM-4V write before a frame: "<0.3 seconds>"."""
FRAME_MARKS = TIME_TOKENS + 2
"""Those, and one mark before and one behind a frame."""

FRAME_TOKENS = 4
"""What InternVL writes before a frame: "Frame1: ", with the end of the line before."""

Size = tuple[int, int]
"""Width and height of a picture in pixels, or rows and columns of a grid."""


@dataclass(frozen=True)
class Run:
    """Visual tokens that follow one another in a prompt."""

    shown: tuple[tuple[int, int], ...]
    """(segment, tokens that its units have here) of each segment that it shows."""
    extra: int = 0
    """Tokens beside them that no step of the encoder takes: line ends, class tokens."""

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.extra + sum(count for _, count in self.shown)


@dataclass(frozen=True)
class Workload:
    """A prompt with pictures or a video, or a batch of equal ones."""

    segments: tuple[int, ...]
    """Units of each segment of the image encoder, of one prompt."""
    runs: tuple[Run, ...]
    """Of one prompt."""
    text: int
    """Tokens of one prompt that are not visual."""
    batch: int = 1
    grids: tuple[Size, ...] | None = None
    """Rows and columns, in units, of each segment of a packed encoder."""
    video: bool = False

    @property
    def visual_tokens(self) -> int:
        """Of one prompt."""
        return sum(run.tokens for run in self.runs)


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
        one = _video(modules, (width, height), frames)
        return replace(one, text=one.text + prompt_tokens, batch=batch)
    one = _picture(modules, (width, height), alone=pictures == 1)
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

    Families without limits in :data:`UNITS` leave a picture as it is here. Raises ValueError for what the
    processors refuse.
    """
    if config.model_type not in UNITS:
        return size
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    unit = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    least, most = pixels or (units * unit**2 for units in UNITS[config.model_type])
    _check_stretched(size)
    width, height = size
    height, width = smart_resize(height, width, factor=unit, min_pixels=least, max_pixels=most)
    return width, height


def _check_stretched(size: Size) -> None:
    if max(size) > MOST_STRETCHED * min(size):
        raise ValueError(
            f"a picture of {size[0]} x {size[1]}: one side may be {MOST_STRETCHED} times as long as the other"
        )


def _picture(modules: LocatedModules, size: Size, alone: bool) -> Workload:
    family, tower = modules.family, modules.tower
    if tower.packed:
        return _packed(modules, size)
    vision = modules.config.vision_config
    side = _first(getattr(vision, "image_size", 1)) // _first(vision.patch_size)
    units = side**2 // modules.group
    if family.model_type == "llava_onevision" and not alone:
        # Several are handed over whole, each with a line end behind.
        return Workload((units,), (Run(((0, units),), 1),), 0)
    if "pack_image_features" in family.row_mixers:
        return _anyres(modules, size)
    if family.model_type == "internvl":
        rows, columns = internvl_grid(_first(vision.image_size), size)
        tiles = rows * columns + (rows * columns > 1)
        return Workload((units,) * tiles, (Run(tuple((t, units) for t in range(tiles))),), 0)
    if family.model_type in ("idefics3", "smolvlm"):
        rows, columns = idefics_grid(size)
        tiles = rows * columns + 1 if rows * columns > 1 else 1
        # A mark and a name in front of each tile, a line end behind each row, two marks around the last.
        marks = 2 * tiles + rows + 2
        return Workload((units,) * tiles, tuple(Run(((t, units),)) for t in range(tiles)), marks)
    return Workload((units,), (Run(((0, units),), _class_token(modules)),), 0)


def _class_token(modules: LocatedModules) -> int:
    full = getattr(modules.config, "vision_feature_select_strategy", "default") == "full"
    return modules.tower.prefix if full else 0


def _grid(modules: LocatedModules, size: Size) -> Size:
    """Rows and columns in units, of a packed encoder."""
    unit = _first(modules.config.vision_config.patch_size) * math.isqrt(modules.group)
    width, height = size
    if modules.config.vision_config.model_type == "pixtral":
        return math.ceil(height / unit), math.ceil(width / unit)
    _check_stretched(size)
    return max(1, round(height / unit)), max(1, round(width / unit))


def _packed(modules: LocatedModules, size: Size) -> Workload:
    rows, columns = _grid(modules, size)
    units = rows * columns
    if modules.config.vision_config.model_type == "pixtral":
        # A mark behind each line.
        lines = tuple(Run(((0, columns),)) for _ in range(rows))
        return Workload((units,), lines, rows, grids=((rows, columns),))
    return Workload((units,), (Run(((0, units),)),), 0, grids=((rows, columns),))


def _anyres(modules: LocatedModules, size: Size) -> Workload:
    """Tiles as the model itself puts them together: a number for each tile, to see where its rows end up."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    config, (width, height) = modules.config, size
    edge = _first(config.vision_config.image_size)
    side = edge // _first(config.vision_config.patch_size)
    tiles = image_size_to_num_patches([height, width], config.image_grid_pinpoints, edge)
    numbered = torch.arange(tiles).float()[:, None, None].expand(tiles, side**2, 1)
    function = modules.base.pack_image_features  # type: ignore[operator, union-attr]
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


def internvl_grid(edge: int, size: Size) -> Size:
    """Rows and columns of tiles of ``edge`` pixels that InternVL's processor cuts a picture into; with more
    than one a small whole picture comes on top."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    columns, rows = get_optimal_tiled_canvas((size[1], size[0]), (edge, edge), 1, MOST_TILES)
    return rows, columns


def idefics_grid(size: Size) -> Size:
    """Rows and columns of Idefics3's and SmolVLM's tiles, likewise: the longer edge has four, the other as
    many as its length needs."""
    width, height = size
    longest = max(width, height)
    return math.ceil(IDEFICS_EDGE * height / longest), math.ceil(IDEFICS_EDGE * width / longest)


def _video(modules: LocatedModules, size: Size, frames: int) -> Workload:
    kind, vision = modules.family.model_type, modules.config.vision_config
    if modules.tower.packed and hasattr(vision, "temporal_patch_size"):
        rows, columns = _grid(modules, size)
        steps, units = math.ceil(frames / vision.temporal_patch_size), rows * columns
        apart = kind.startswith("qwen3") or kind.startswith("glm")
        runs = [Run(((t, units),)) for t in range(steps)]
        if not apart:
            runs = [Run(tuple((t, units) for t in range(steps)))]
        # The prompt's text has the marks of one picture in it.
        marks = FRAME_MARKS * steps - 2 if apart else 0
        return Workload((units,) * steps, tuple(runs), marks, grids=((rows, columns),) * steps, video=True)
    if kind == "internvl":
        # Every frame is a picture of one tile with a line of its own.
        units = (_first(vision.image_size) // _first(vision.patch_size)) ** 2 // modules.group
        runs = tuple(Run(((t, units),)) for t in range(frames))
        return Workload((units,) * frames, runs, (FRAME_TOKENS + 2) * frames - 2, video=True)
    if kind not in ("llava_onevision", "llava_next_video"):
        raise UnsupportedError(f"{kind} takes no videos: give pictures instead of frames")
    side = _first(vision.image_size) // _first(vision.patch_size)
    pooled = math.ceil(side / 2) ** 2 if kind == "llava_onevision" else (side // 2) ** 2
    # OneVision closes a video with a line end.
    run = Run(tuple((t, pooled) for t in range(frames)), int(kind == "llava_onevision"))
    return Workload((side**2,) * frames, (run,), 0, video=True)


def _first(value: int | Sequence[int]) -> int:
    return value if isinstance(value, int) else value[0]
