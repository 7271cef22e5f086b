"""Mistral 3 and LightOnOCR: Pixtral's encoder, with four of its tokens per visual token of the LLM."""

from __future__ import annotations

from typing import Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, tiled_encoder
from ..family import Family
from ..picture_layouts import picture_in_lines
from ..towers import PIXTRAL
from .llava import LIKE_ONEVISION, tiny_llava


def _dimensions(config: Any) -> EncoderDimensions:
    hidden, width = config.vision_config.hidden_size, config.get_text_config().hidden_size
    wide = hidden * config.spatial_merge_size**2
    return tiled_encoder(config.vision_config, ((wide, hidden), (hidden, width), (width, width)), 3)


def _folding(encoder: str, projector: str) -> dict[str, Any]:
    return {
        "encoder": encoder,
        "projector": projector,
        "unfolds_before": projector,
        "compacts_before": f"{projector}.patch_merger.merging_layer",
        "towers": {"pixtral": PIXTRAL},
        "encoder_dimensions": _dimensions,
        "group": lambda config: int(config.spatial_merge_size**2),
        "picture": picture_in_lines,
        "picture_format": lambda config: "lines",
    }


_UNITS = ("spatial_merge_size", "vision_config.patch_size")

ENTRIES = (
    Family(
        "mistral3",
        LIKE_ONEVISION,
        **_folding("vision_tower", "multi_modal_projector"),
        config_attributes=("vision_feature_layer", *_UNITS),
        tiny={
            "mistral3": lambda: tiny_llava(
                transformers.Mistral3Config, tiny.PIXTRAL, tiny.MISTRAL, spatial_merge_size=2
            )
        },
    ),
    Family(
        "lighton_ocr",
        LIKE_ONEVISION,
        **_folding("vision_encoder", "vision_projection"),
        config_attributes=_UNITS,
        tiny={
            "lighton_ocr": lambda: transformers.LightOnOcrConfig(
                vision_config=tiny.PIXTRAL, text_config=tiny.QWEN3, image_token_id=tiny.IMAGE
            )
        },
    ),
)
