"""Qwen2-VL and Qwen2.5-VL: pictures at their own size, packed into one sequence, four patches per token."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

from ...compat.calls import Call
from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, packed_encoder
from ..family import ANY, Family, Schedule
from ..noise import NoisePictures, noise, text_ids
from ..picture_layouts import TIME_TOKENS, packed_picture, packed_video, resize_to_units
from ..towers import QWEN_VL, Tower
from ..workload import Size

UNITS = (4, 16384)
"""Minimum and maximum number of units to which the published processors resize a picture."""
PATCHES = (
    "vision_config.patch_size",
    "vision_config.spatial_merge_size",
    "vision_config.temporal_patch_size",
    "video_token_id",
)
"""Config attributes that define how pictures and videos are split into units."""
QWEN: dict[str, Any] = {
    "encoder": "visual",
    "projector": "visual.merger",
    "group": lambda config: int(config.vision_config.spatial_merge_size**2),
    "picture": packed_picture,
    "picture_format": lambda config: "grid",
    "token_types": lambda kinds: {"mm_token_type_ids": kinds},
}


def qwen_noise(
    config: Any, size: Size, pictures: int, frames: int, *, units: tuple[int, int], timed: bool = False
) -> NoisePictures:
    """Sides are rounded to whole units. Frames are encoded in pairs, each after a timestamp if ``timed``."""
    vision = config.vision_config
    patch, merge, pair = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    width, height = resize_to_units(config, size, units=units)
    count = math.ceil(frames / pair) if frames else pictures
    down, across = height // patch, width // patch
    pixels = noise(count * down * across, vision.in_channels * pair * patch**2)
    tokens = down * across // merge**2
    start, end = config.vision_start_token_id, config.vision_end_token_id
    if not frames:
        grid = torch.tensor([[1, down, across]] * pictures)
        run = [start, *[config.image_token_id] * tokens, end]
        return NoisePictures({"pixel_values": pixels, "image_grid_thw": grid}, [run] * pictures)
    video = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[count, down, across]])}
    placeholders = [config.video_token_id] * tokens
    if timed:
        return NoisePictures(video, [[*text_ids(TIME_TOKENS), start, *placeholders, end] * count])
    return NoisePictures(video, [[start, *placeholders * count, end]])


def _dimensions_2(config: Any) -> EncoderDimensions:
    vision = config.vision_config
    width = vision.embed_dim
    return packed_encoder(vision, width, int(width * vision.mlp_ratio), 2, vision.hidden_size)


def _dimensions_2_5(config: Any) -> EncoderDimensions:
    vision = config.vision_config
    return packed_encoder(vision, vision.hidden_size, vision.intermediate_size, 3, vision.out_hidden_size)


def _windows(vision: Any, grid: Tensor) -> tuple[Tensor, Any]:
    # Imported here: where a release lacks it, the entries and the contract can still be read.
    from transformers.vision_utils import get_vision_window_index

    return get_vision_window_index(
        grid, vision.spatial_merge_size, window_size=vision.window_size, patch_size=vision.patch_size
    )


def _window_order(vision: Any, grid: Tensor) -> Tensor:
    """Qwen2.5-VL sorts units by window, picture by picture."""
    return _windows(vision, grid)[0]


def _window_lengths(vision: Any, grid: Tensor) -> tuple[int, ...]:
    ends = torch.unique_consecutive(torch.as_tensor(_windows(vision, grid)[1]))
    return tuple(ends.diff().tolist())


QWEN2_5_TOWER = Tower(
    "blocks",
    "attn",
    "norm2",
    "mlp",
    "norm1",
    packed=True,
    full_attention_blocks=lambda vision: tuple(vision.fullatt_block_indexes),
    windows=_window_lengths,
    unit_order=_window_order,
)
SLIDING = ("sliding_window", "layer_types")
PAIRS: dict[str, Any] = {
    **QWEN,
    "video": packed_video,
    "resize": partial(resize_to_units, units=UNITS),
    "noise": partial(qwen_noise, units=UNITS),
}

# No schedule was published for this family. This is Qwen2-VL's, with the encoder steps moved to the two
# full-attention blocks around the same depth.
_SCHEDULE_2_5 = Schedule(
    32, (7, 15), (0.84**2,) * 2, 28, (6, 7, 8), (0.9,) * 3, "Qwen2-VL's, at full-attention blocks"
)
LIKE_QWEN2_5_VL = replace(_SCHEDULE_2_5, source="Qwen2.5-VL's, none was published for it")
WINDOWED: dict[str, Any] = {
    **PAIRS,
    "towers": {ANY: QWEN2_5_TOWER},
    "encoder_dimensions": _dimensions_2_5,
    "functions": {
        ("transformers.vision_utils", "get_vision_window_index"): Call(
            ("grid_thw", "spatial_merge_size"), ("window_size", "patch_size"), optional=True
        ),
    },
    "config_attributes": (*PATCHES, "vision_config.window_size", "vision_config.fullatt_block_indexes"),
}
"""Of the families that have Qwen2.5-VL's encoder."""
WINDOWED_VISION = {**tiny.QWEN_VISION, "window_size": 16, "fullatt_block_indexes": [1, 3]}

ENTRIES = (
    Family(
        "qwen2_vl",
        Schedule(32, (12, 13, 14, 15), (0.84,) * 4, 28, (6, 7, 8), (0.9,) * 3, "arXiv 2412.06263"),
        towers={ANY: QWEN_VL},
        encoder_dimensions=_dimensions_2,
        mixed_patches=True,
        **PAIRS,
        config_attributes=PATCHES,
        llm_attributes={"qwen2_vl_text": SLIDING},
        tiny={
            "qwen2_vl": lambda: transformers.Qwen2VLConfig(
                text_config={**tiny.TEXT, **tiny.rope(1, 1, 2)},
                vision_config=dict(
                    depth=5, embed_dim=24, hidden_size=32, num_heads=3, mlp_ratio=2, patch_size=4
                ),
                **tiny.TOKENS,
            )
        },
    ),
    Family(
        "qwen2_5_vl",
        _SCHEDULE_2_5,
        **WINDOWED,
        llm_attributes={"qwen2_5_vl_text": SLIDING},
        tiny={
            "qwen2_5_vl": lambda: transformers.Qwen2_5_VLConfig(
                text_config={**tiny.TEXT, **tiny.rope(1, 1, 2)}, vision_config=WINDOWED_VISION, **tiny.TOKENS
            )
        },
    ),
)
