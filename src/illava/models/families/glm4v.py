"""GLM-4V, its mixture of experts, GLM-4.6V and GLM-OCR."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, packed_encoder
from ..family import ANY, Family
from ..picture_layouts import timed_video
from ..towers import QWEN_VL
from .qwen2_vl import PATCHES, QWEN
from .qwen3_vl import LIKE_QWEN3_VL


def _dimensions(config: Any) -> EncoderDimensions:
    # The blocks' MLPs have the width of the LLM, and the merger's that of the config.
    vision = config.vision_config
    return _sizes(vision, vision.out_hidden_size, vision.intermediate_size)


def _ocr_dimensions(config: Any) -> EncoderDimensions:
    vision = config.vision_config
    return _sizes(vision, vision.intermediate_size, vision.out_hidden_size * vision.in_channels)


def _sizes(vision: Any, of_blocks: int, of_merger: int) -> EncoderDimensions:
    """Sizes of an encoder, given the widths of the MLPs of its blocks and of its merger."""
    out = vision.out_hidden_size
    dimensions = packed_encoder(vision, vision.hidden_size, of_blocks, 3, out)
    wide = vision.hidden_size * vision.spatial_merge_size**2
    merger = (out, of_merger), (out, of_merger), (of_merger, out)
    return replace(dimensions, projector=((wide, out), (out, out), *merger))


_GLM: dict[str, Any] = {
    **QWEN,
    "towers": {ANY: QWEN_VL},
    "encoder_dimensions": _dimensions,
    "video": timed_video,
    "config_attributes": PATCHES,
}

_TOKENS: dict[str, Any] = dict(
    image_token_id=tiny.IMAGE,
    video_token_id=tiny.VIDEO,
    image_start_token_id=tiny.START,
    image_end_token_id=tiny.END,
    video_start_token_id=94,
    video_end_token_id=95,
)
_VISION = {**tiny.QWEN_VISION, "intermediate_size": 40, "image_size": 24}
_TEXT = {
    **tiny.TEXT,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    **tiny.rope(1, 1, 2, partial_rotary_factor=0.5),
}
_EXPERTS = dict(
    moe_intermediate_size=16,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=1,
    first_k_dense_replace=1,
)

ENTRIES = (
    Family(
        "glm4v",
        LIKE_QWEN3_VL,
        **_GLM,
        llm_attributes={"glm4v_text": ()},
        tiny={"glm4v": lambda: transformers.Glm4vConfig(text_config=_TEXT, vision_config=_VISION, **_TOKENS)},
    ),
    Family(
        "glm4v_moe",
        LIKE_QWEN3_VL,
        **_GLM,
        llm_attributes={"glm4v_moe_text": ("output_router_logits",)},
        tiny={
            "glm4v_moe": lambda: transformers.Glm4vMoeConfig(
                text_config={**_TEXT, **_EXPERTS}, vision_config=_VISION, **_TOKENS
            )
        },
    ),
    Family(
        "glm46v",
        LIKE_QWEN3_VL,
        **_GLM,
        llm_attributes={"glm4v_text": ()},
        tiny={
            "glm46v": lambda: transformers.Glm46VConfig(
                text_config={"model_type": "glm4v_text", **_TEXT},
                vision_config={"model_type": "glm4v_vision", **_VISION},
                **_TOKENS,
            )
        },
    ),
    Family(
        "glm_ocr",
        LIKE_QWEN3_VL,
        **{**_GLM, "encoder_dimensions": _ocr_dimensions},
        llm_attributes={"glm_ocr_text": ()},
        tiny={
            "glm_ocr": lambda: transformers.GlmOcrConfig(
                text_config={**_TEXT, "head_dim": 16}, vision_config=_VISION, **_TOKENS
            )
        },
    ),
)
