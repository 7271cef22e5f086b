"""Mistral 3: Pixtral's encoder, with four of its tokens per visual token of the LLM."""

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


ENTRIES = (
    Family(
        "mistral3",
        LIKE_ONEVISION,
        encoder="vision_tower",
        projector="multi_modal_projector",
        unfolds_before="multi_modal_projector",
        compacts_before="multi_modal_projector.patch_merger.merging_layer",
        towers={"pixtral": PIXTRAL},
        encoder_dimensions=_dimensions,
        group=lambda config: int(config.spatial_merge_size**2),
        config_attributes=("vision_feature_layer", "spatial_merge_size", "vision_config.patch_size"),
        picture=picture_in_lines,
        picture_format=lambda config: "lines",
        tiny={
            "mistral3": lambda: tiny_llava(
                transformers.Mistral3Config, tiny.PIXTRAL, tiny.MISTRAL, spatial_merge_size=2
            )
        },
    ),
)
