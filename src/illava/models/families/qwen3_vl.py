"""Qwen3-VL, Cosmos and Compass, whose LLMs also receive features from inside the encoder, and Qwen3.5."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, packed_encoder
from ..family import ANY, Family, Schedule
from ..picture_layouts import resize_to_units, timed_video
from ..towers import QWEN_VL
from .qwen2_vl import PATCHES, QWEN, qwen_noise

UNITS = (64, 16384)
"""Minimum and maximum number of units to which Qwen3-VL's published processors resize a picture."""
_SCHEDULE = Schedule(27, (5, 6, 7, 8), (0.85,) * 4, 36, (19, 21, 23, 25), (0.9,) * 4, "arXiv 2412.06263")
LIKE_QWEN3_VL = replace(_SCHEDULE, source="Qwen3-VL's, none was published for it")
# A recurrent layer cannot remove tokens from its state.
_ENCODER_ONLY = replace(
    _SCHEDULE, llm_layers=(), llm_keep=(), source="Qwen3-VL's encoder stage, none was published for it"
)


def _dimensions(config: Any) -> EncoderDimensions:
    vision = config.vision_config
    dimensions = packed_encoder(
        vision, vision.hidden_size, vision.intermediate_size, 2, vision.out_hidden_size
    )
    return replace(dimensions, taps=tuple(getattr(vision, "deepstack_visual_indexes", ())))


_RECURRENT = "recurrent layers have no keys and values to drop"

_QWEN3: dict[str, Any] = {
    **QWEN,
    "towers": {ANY: QWEN_VL},
    "encoder_dimensions": _dimensions,
    "video": timed_video,
}
DEEPSTACK: dict[str, Any] = {
    **_QWEN3,
    "taps": "visual.deepstack_merger_list",
    # Tapped features are added to the outputs of the first layers, at the columns of the full prompt.
    "first_llm_layer": lambda config: max(1, len(config.vision_config.deepstack_visual_indexes)),
    "config_attributes": (*PATCHES, "vision_config.deepstack_visual_indexes"),
}

TEXT = {**tiny.TEXT, "head_dim": 8, **tiny.rope(2, 1, 1)}
# Layers with full attention have no positions.
_COMPASS = {
    **tiny.TEXT,
    "layer_types": [*["sliding_attention", "full_attention"] * 2, "sliding_attention"],
    "rope_parameters": {"sliding_attention": tiny.rope(2, 1, 1)["rope_parameters"], "full_attention": None},
}
EXPERTS = dict(moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
# Full attention at layers 3 and 7.
_HYBRID = {
    **tiny.TEXT,
    "head_dim": 32,
    "num_hidden_layers": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_conv_kernel_dim": 4,
    **tiny.rope(2, 1, 1, partial_rotary_factor=0.25),
}
_HYBRID_VISION = {**tiny.QWEN_VISION, "num_position_embeddings": 36}
TAPPED_VISION = {**_HYBRID_VISION, "deepstack_visual_indexes": [1, 3]}

_PUBLISHED: dict[str, Any] = {
    **DEEPSTACK,
    "llm_attributes": {"qwen3_vl_text": ()},
    "resize": partial(resize_to_units, units=UNITS),
    "noise": partial(qwen_noise, units=UNITS, timed=True),
}

ENTRIES = (
    Family(
        "qwen3_vl",
        _SCHEDULE,
        **_PUBLISHED,
        tiny={
            "qwen3_vl": lambda: transformers.Qwen3VLConfig(
                text_config=TEXT, vision_config=TAPPED_VISION, **tiny.TOKENS
            )
        },
    ),
    Family(
        "cosmos3_omni",
        LIKE_QWEN3_VL,
        **_PUBLISHED,
        tiny={
            "cosmos3_omni": lambda: transformers.Cosmos3OmniConfig(
                text_config=TEXT, vision_config=TAPPED_VISION, **tiny.TOKENS
            )
        },
    ),
    Family(
        "cohere_compass",
        LIKE_QWEN3_VL,
        **DEEPSTACK,
        llm_attributes={"cohere_compass_text": ("sliding_window", "layer_types")},
        tiny={
            "cohere_compass": lambda: transformers.CohereCompassConfig(
                text_config=_COMPASS, vision_config=TAPPED_VISION, **tiny.TOKENS
            )
        },
    ),
    Family(
        "qwen3_vl_moe",
        LIKE_QWEN3_VL,
        **DEEPSTACK,
        llm_attributes={"qwen3_vl_moe_text": ("output_router_logits",)},
        tiny={
            "qwen3_vl_moe": lambda: transformers.Qwen3VLMoeConfig(
                text_config={**TEXT, **EXPERTS}, vision_config=TAPPED_VISION, **tiny.TOKENS
            )
        },
    ),
    Family(
        "qwen3_5",
        _ENCODER_ONLY,
        **_QWEN3,
        llm_refusal=_RECURRENT,
        config_attributes=PATCHES,
        llm_attributes={"qwen3_5_text": ("layer_types",)},
        tiny={
            "qwen3_5": lambda: transformers.Qwen3_5Config(
                text_config=_HYBRID, vision_config=_HYBRID_VISION, **tiny.TOKENS
            )
        },
    ),
    Family(
        "qwen3_5_moe",
        _ENCODER_ONLY,
        **_QWEN3,
        llm_refusal=_RECURRENT,
        config_attributes=PATCHES,
        llm_attributes={"qwen3_5_moe_text": ("layer_types", "output_router_logits")},
        tiny={
            "qwen3_5_moe": lambda: transformers.Qwen3_5MoeConfig(
                text_config={
                    **{name: value for name, value in _HYBRID.items() if name != "intermediate_size"},
                    **EXPERTS,
                    "shared_expert_intermediate_size": 16,
                },
                vision_config=_HYBRID_VISION,
                **tiny.TOKENS,
            )
        },
    ),
)
