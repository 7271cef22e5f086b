"""EXAONE 4.5 and HyperCLOVA X Vision: Qwen2.5-VL's encoder before LLMs with one axis of positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, packed_encoder
from ..family import Family
from .qwen2_vl import LIKE_QWEN2_5_VL, WINDOWED, WINDOWED_VISION

# They have processors of their own, and no ids of special tokens around a picture in their configs.
_OWN: dict[str, Any] = {"token_types": lambda kinds: {}, "resize": None, "noise": None}
_TOKENS: dict[str, Any] = dict(image_token_id=tiny.IMAGE, video_token_id=tiny.VIDEO)


def _sizes(vision: Any, out: int) -> EncoderDimensions:
    return packed_encoder(vision, vision.hidden_size, vision.intermediate_size, 3, out)


def _exaone_dimensions(config: Any) -> EncoderDimensions:
    vision = config.vision_config
    share = vision.num_key_value_heads / vision.num_heads
    return replace(_sizes(vision, vision.out_hidden_size), kv_share=share)


def _hyperclovax_dimensions(config: Any) -> EncoderDimensions:
    vision = config.vision_config
    sizes = _sizes(vision, vision.out_hidden_size)
    last = vision.out_hidden_size, config.get_text_config().hidden_size
    return replace(sizes, projector=(*sizes.projector, last))


ENTRIES = (
    Family(
        "exaone4_5",
        LIKE_QWEN2_5_VL,
        **{**WINDOWED, **_OWN, "encoder_dimensions": _exaone_dimensions},
        llm_norm=None,
        llm_attributes={"exaone4": ("sliding_window", "layer_types")},
        tiny={
            "exaone4_5": lambda: transformers.Exaone4_5_Config(
                text_config={
                    "model_type": "exaone4",
                    **tiny.TEXT,
                    "sliding_window": 24,
                    "layer_types": [*["sliding_attention", "full_attention"] * 2, "full_attention"],
                },
                vision_config={**WINDOWED_VISION, "num_heads": 6, "num_key_value_heads": 3},
                **_TOKENS,
            )
        },
    ),
    Family(
        "hyperclovax_vision_v2",
        LIKE_QWEN2_5_VL,
        **{
            **WINDOWED,
            **_OWN,
            "encoder": "vision_model",
            "projector": "vision_model.merger",
            "encoder_dimensions": _hyperclovax_dimensions,
        },
        row_wise="projector",
        llm_attributes={"hyperclovax": ()},
        tiny={
            "hyperclovax_vision_v2": lambda: transformers.HyperCLOVAXVisionV2Config(
                text_config={"model_type": "hyperclovax", **tiny.TEXT},
                vision_config={"model_type": "qwen2_5_vl_vision", **WINDOWED_VISION, "out_hidden_size": 40},
                **_TOKENS,
            )
        },
    ),
)
