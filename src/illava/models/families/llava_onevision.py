"""LLaVA-OneVision: a single picture in tiles; several pictures and the frames of a video only as a whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import transformers

from .. import tiny_configs as tiny
from ..family import Family, Schedule
from ..noise import NoisePictures, noise
from ..picture_layouts import anyres_picture, pooled_video, tile_side
from ..workload import Run, Size, Workload
from .llava import ONEVISION_KEEP, tiny_llava
from .llava_next import ANYRES, ATTRIBUTES

if TYPE_CHECKING:
    from ..located import LocatedModules


def _picture(modules: LocatedModules, size: Size, single: bool) -> Workload:
    if single:
        return anyres_picture(modules, size, single)
    # A newline token follows each picture.
    units = tile_side(modules.config.vision_config) ** 2
    return Workload((units,), (Run(((0, units),), 1),), 0)


def _video(modules: LocatedModules, size: Size, frames: int) -> Workload:
    """Frames are pooled 2 x 2, and a newline token follows the last."""
    side = tile_side(modules.config.vision_config)
    return pooled_video(side**2, math.ceil(side / 2) ** 2, frames, extra=1)


def _noise(config: Any, size: Size, pictures: int, frames: int) -> NoisePictures:
    """For a single picture, a newline feature follows each row of the tiles."""
    from transformers.image_processing_utils import select_best_resolution

    vision = config.vision_config
    tile, side = vision.image_size, vision.image_size // vision.patch_size
    if frames:
        # Pooled 2 x 2, and one newline feature at the end.
        tokens = frames * math.ceil(side / 2) ** 2 + 1
        pixels = noise(1, frames, vision.num_channels, tile, tile)
        return NoisePictures({"pixel_values_videos": pixels}, [[config.video_token_id] * tokens])
    # From here on sizes are (height, width), as in transformers.
    shape = size[::-1]
    image_sizes = torch.tensor([shape] * pictures)
    if pictures > 1:
        values = {
            "pixel_values": noise(pictures, 1, vision.num_channels, tile, tile),
            "image_sizes": image_sizes,
            "batch_num_images": torch.tensor([pictures]),
        }
        return NoisePictures(values, [[config.image_token_id] * (side**2 + 1)] * pictures)
    best = select_best_resolution(shape, config.image_grid_pinpoints)
    high, wide = (length // tile for length in best)
    down, across = _unpadded(shape, high * side, wide * side)
    # If there are more features than in this number of tiles, they are scaled down.
    max_tiles = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(down * across / (max_tiles * side**2))
    if ratio > 1.1:
        down, across = int(down // ratio), int(across // ratio)
    tokens = side**2 + down * (across + 1)
    pixels = noise(1, high * wide + 1, vision.num_channels, tile, tile)
    values = {"pixel_values": pixels, "image_sizes": image_sizes}
    return NoisePictures(values, [[config.image_token_id] * tokens])


def _unpadded(shape: Size, down: int, across: int) -> tuple[int, int]:
    """Rows and columns of features left after removing those of the padding around a picture."""
    height, width = shape
    if width / height > across / down:
        return down - 2 * ((down - int(round(height * (across / width), 7))) // 2), across
    return down, across - 2 * ((across - int(round(width * (down / height), 7))) // 2)


ENTRIES = (
    Family(
        "llava_onevision",
        Schedule(26, (5, 6, 7, 8), ONEVISION_KEEP, 28, (8,), (0.7,), "arXiv 2412.06263"),
        **ANYRES,
        row_mixers=("pack_image_features", "apply_pooling"),
        config_attributes=(*ATTRIBUTES, "video_token_id"),
        picture=_picture,
        video=_video,
        noise=_noise,
        picture_marks=0,
        tiny={
            "llava_onevision": lambda: tiny_llava(
                transformers.LlavaOnevisionConfig,
                tiny.SIGLIP,
                tiny.QWEN2,
                video_token_index=tiny.VIDEO,
                image_grid_pinpoints=tiny.TILES,
                vision_feature_layer=-1,
            ),
            "llava_onevision-dinov2": lambda: tiny_llava(
                transformers.LlavaOnevisionConfig,
                tiny.DINOV2,
                tiny.QWEN2,
                video_token_index=tiny.VIDEO,
                image_grid_pinpoints=tiny.TILES,
                vision_feature_layer=-1,
                vision_feature_select_strategy="default",
            ),
        },
    ),
)
