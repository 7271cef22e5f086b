"""Cosmos3 Edge and PaddleOCR-VL: SigLIP's blocks on packed pictures, with the projector outside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, tiled_encoder
from ..family import ANY, Family
from ..picture_layouts import packed_picture, timed_video
from ..towers import SIGLIP
from .qwen3_vl import LIKE_QWEN3_VL

PACKED = replace(SIGLIP, packed=True, rotary=False)
IN_SQUARES = replace(SIGLIP, blocks="vision_model.encoder.layers", packed=True, spatial=True)


def _dimensions(config: Any) -> EncoderDimensions:
    vision, width = config.vision_config, config.get_text_config().hidden_size
    wide = vision.hidden_size * vision.spatial_merge_size**2
    inner = getattr(config, "projector_hidden_size", wide)
    return tiled_encoder(vision, ((wide, inner), (inner, width)))


_PACKED: dict[str, Any] = {
    "encoder": "visual",
    "projector": "projector",
    "encoder_dimensions": _dimensions,
    "group": lambda config: int(config.vision_config.spatial_merge_size**2),
    "picture": packed_picture,
    "token_types": lambda kinds: {"mm_token_type_ids": kinds},
}
_UNITS = ("vision_config.patch_size", "vision_config.spatial_merge_size")
_VISION = {**tiny.VISION, "patch_size": 4}

ENTRIES = (
    Family(
        "cosmos3_edge",
        LIKE_QWEN3_VL,
        **_PACKED,
        # Positions are added to the patches once.
        towers={ANY: PACKED},
        config_attributes=(*_UNITS, "projector_hidden_size"),
        llm_attributes={"cosmos3_edge_text": ()},
        video=timed_video,
        picture_format=lambda config: "grid",
        tiny={
            "cosmos3_edge": lambda: transformers.Cosmos3EdgeConfig(
                text_config={**tiny.TEXT, "head_dim": 8, **tiny.rope(2, 1, 1)},
                vision_config={**_VISION, "num_patches": 36},
                projector_hidden_size=40,
                **tiny.TOKENS,
            )
        },
    ),
    Family(
        "paddleocr_vl",
        LIKE_QWEN3_VL,
        **_PACKED,
        folds_by_grid=True,
        towers={ANY: IN_SQUARES},
        config_attributes=_UNITS,
        llm_attributes={"paddleocr_vl_text": ()},
        picture_format=lambda config: "patches",
        tiny={
            "paddleocr_vl": lambda: transformers.PaddleOCRVLConfig(
                text_config={**tiny.TEXT, "head_dim": 8, **tiny.rope(2, 1, 1)},
                vision_config={**_VISION, "image_size": 24},
                **tiny.TOKENS,
            )
        },
    ),
)
