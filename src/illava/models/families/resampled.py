"""Idefics2 and Aria: queries, fixed in number, read the patches, and the LLM gets their outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, ResamplerDimensions, tiled_encoder
from ..family import ANY, Family
from ..picture_layouts import tile_side, whole_picture
from ..towers import SIGLIP
from .llava import LIKE_ONEVISION

TOWER = replace(SIGLIP, any_size=True)


def _idefics_dimensions(config: Any) -> EncoderDimensions:
    reader, vision, text = config.perceiver_config, config.vision_config, config.get_text_config()
    width, hidden = reader.hidden_size, vision.hidden_size
    heads = reader.resampler_n_heads * reader.resampler_head_dim
    keys = reader.num_key_value_heads * reader.resampler_head_dim
    key_value = ((width, keys),) * 2
    mlp = (width, 4 * width), (width, 4 * width), (4 * width, width)
    layer = (width, heads), *key_value, (heads, width), *mlp
    depth = reader.resampler_depth
    inner = text.intermediate_size
    projector = (hidden, inner), (hidden, inner), (inner, text.hidden_size), *key_value * depth
    return replace(
        tiled_encoder(vision, projector),
        resampler=ResamplerDimensions(reader.resampler_n_latents, layer * depth, heads * depth, joined=True),
    )


def _aria_queries(config: Any) -> int:
    return int(config.projector_patch_to_query_dict[tile_side(config.vision_config) ** 2])


def _aria_dimensions(config: Any) -> EncoderDimensions:
    vision, width = config.vision_config, config.get_text_config().hidden_size
    hidden = vision.hidden_size
    # Keys and values are projected twice, and so are the queries.
    layers = ((hidden, hidden),) * 4 + ((hidden, width), (width, width))
    return replace(
        tiled_encoder(vision, ((hidden, hidden),) * 4),
        resampler=ResamplerDimensions(_aria_queries(config), layers, hidden),
    )


ENTRIES = (
    Family(
        "idefics2",
        LIKE_ONEVISION,
        encoder="vision_model",
        projector="connector",
        resampler="connector.perceiver_resampler",
        towers={ANY: TOWER},
        encoder_dimensions=_idefics_dimensions,
        llm="text_model",
        features=lambda config: int(config.perceiver_config.resampler_n_latents),
        config_attributes=("perceiver_config.resampler_n_latents", "perceiver_config.resampler_depth"),
        picture=whole_picture,
        picture_format=lambda config: "marked_tiles",
        tiny={
            "idefics2": lambda: transformers.Idefics2Config(
                vision_config={**tiny.VISION, "image_size": 24, "patch_size": 4},
                perceiver_config=dict(
                    hidden_size=32, resampler_n_latents=9, resampler_depth=2, resampler_n_heads=4
                )
                | dict(resampler_head_dim=8, num_key_value_heads=2),
                text_config=tiny.MISTRAL,
                image_token_id=tiny.IMAGE,
            )
        },
    ),
    Family(
        "aria",
        LIKE_ONEVISION,
        # The number of queries follows from the number of patches before any was dropped.
        unfolds_before="multi_modal_projector",
        compacts_before="multi_modal_projector.cross_attn",
        resampler="multi_modal_projector.cross_attn",
        towers={ANY: SIGLIP},
        encoder_dimensions=_aria_dimensions,
        features=_aria_queries,
        config_attributes=("vision_feature_layer", "projector_patch_to_query_dict"),
        llm_attributes={"aria_text": ("moe_topk", "moe_num_shared_experts")},
        tiny={
            "aria": lambda: transformers.AriaConfig(
                vision_config={
                    "model_type": "idefics3_vision",
                    **tiny.VISION,
                    "image_size": 24,
                    "patch_size": 4,
                },
                text_config={**tiny.TEXT, "moe_num_experts": 4, "head_dim": 8},
                projector_patch_to_query_dict={36: 9},
                image_token_index=tiny.IMAGE,
            )
        },
    ),
)
