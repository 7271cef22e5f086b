"""Gemma 3, which pools tokens before its projection, and PaliGemma. Pictures attend bidirectionally."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, tiled_encoder
from ..family import Family
from ..towers import SIGLIP, SIGLIP_IN_SQUARES
from .llava import LIKE_ONEVISION, tiny_llava


def _dimensions(config: Any) -> EncoderDimensions:
    hidden, width = config.vision_config.hidden_size, config.get_text_config().hidden_size
    return tiled_encoder(config.vision_config, ((hidden, width),))


def _group(config: Any) -> int:
    vision = config.vision_config
    side = int(vision.image_size) // int(vision.patch_size)
    return (side // math.isqrt(config.mm_tokens_per_image)) ** 2


_TEXT = {**tiny.TEXT, "head_dim": 8, "query_pre_attn_scalar": 8}
_WINDOWS = {
    "sliding_window": 24,
    "layer_types": [*["sliding_attention", "full_attention"] * 2, "sliding_attention"],
}


def _tiny_paligemma_2() -> Any:
    text = {"model_type": "gemma2", **_TEXT, **_WINDOWS}
    config = tiny_llava(transformers.PaliGemmaConfig, tiny.SIGLIP, text, projection_dim=32)
    # Gemma 2 supports eager attention only.
    config._attn_implementation = "eager"
    return config


ENTRIES = (
    Family(
        "gemma3",
        # Every sixth layer attends to the whole prompt; the windows of the others may not reach the pictures.
        replace(LIKE_ONEVISION, llm_depth=34, llm_layers=(12,)),
        unfolds_before="multi_modal_projector",
        compacts_before="multi_modal_projector.mm_soft_emb_norm",
        towers={"siglip_vision_model": SIGLIP_IN_SQUARES},
        encoder_dimensions=_dimensions,
        group=_group,
        outer_masks=True,
        config_attributes=("mm_tokens_per_image", "vision_config.image_size", "vision_config.patch_size"),
        llm_attributes={"gemma3_text": ("sliding_window", "layer_types")},
        token_types=lambda kinds: {"token_type_ids": (kinds == 1).long()},
        tiny={
            "gemma3": lambda: tiny_llava(
                transformers.Gemma3Config,
                tiny.SIGLIP,
                {**_TEXT, **_WINDOWS},
                boi_token_index=tiny.START,
                eoi_token_index=tiny.END,
                mm_tokens_per_image=9,
            )
        },
    ),
    Family(
        "paligemma",
        LIKE_ONEVISION,
        towers={"siglip_vision_model": SIGLIP},
        encoder_dimensions=_dimensions,
        outer_masks=True,
        token_types=lambda kinds: {"token_type_ids": torch.zeros_like(kinds).long()},
        tiny={
            "paligemma": lambda: tiny_llava(
                transformers.PaliGemmaConfig,
                tiny.SIGLIP,
                {"model_type": "gemma", **tiny.TEXT, "head_dim": 8},
                projection_dim=32,
            ),
            "paligemma-2": _tiny_paligemma_2,
        },
    ),
)
