"""LLaVA-NeXT, for pictures and for videos: the model packs the tiles of a picture and the whole picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers

from .. import tiny_configs as tiny
from ..family import Family
from ..picture_layouts import ANYRES_FUNCTIONS, anyres_picture, pooled_video, tile_side
from ..workload import Size, Workload
from .llava import FEATURES, LIKE_ONEVISION, TILED, dimensions, tiny_llava

if TYPE_CHECKING:
    from ..located import LocatedModules

ATTRIBUTES = (*FEATURES, "image_grid_pinpoints", "vision_config.image_size")
ANYRES: dict[str, Any] = {
    "encoder_dimensions": dimensions,
    "towers": TILED,
    "picture_format": lambda config: "anyres",
    "functions": ANYRES_FUNCTIONS,
}


def _video(modules: LocatedModules, size: Size, frames: int) -> Workload:
    side = tile_side(modules.config.vision_config)
    return pooled_video(side**2, (side // 2) ** 2, frames)


ENTRIES = (
    Family(
        "llava_next",
        LIKE_ONEVISION,
        **ANYRES,
        row_mixers=("pack_image_features",),
        config_attributes=ATTRIBUTES,
        picture=anyres_picture,
        tiny={
            "llava_next": lambda: tiny_llava(
                transformers.LlavaNextConfig, tiny.CLIP, tiny.MISTRAL, image_grid_pinpoints=tiny.TILES
            ),
            "llava_next-dinov2": lambda: tiny_llava(
                transformers.LlavaNextConfig, tiny.DINOV2, tiny.LLAMA, image_grid_pinpoints=tiny.TILES
            ),
        },
    ),
    Family(
        "llava_next_video",
        LIKE_ONEVISION,
        **ANYRES,
        row_mixers=("pack_image_features",),
        pooler="vision_resampler",
        config_attributes=(*ATTRIBUTES, "video_token_id"),
        picture=anyres_picture,
        video=_video,
        tiny={
            "llava_next_video": lambda: tiny_llava(
                transformers.LlavaNextVideoConfig,
                tiny.CLIP,
                tiny.LLAMA,
                video_token_index=tiny.VIDEO,
                image_grid_pinpoints=tiny.TILES,
            ),
            "llava_next_video-dinov2": lambda: tiny_llava(
                transformers.LlavaNextVideoConfig,
                tiny.DINOV2,
                tiny.LLAMA,
                video_token_index=tiny.VIDEO,
                image_grid_pinpoints=tiny.TILES,
            ),
        },
    ),
)
