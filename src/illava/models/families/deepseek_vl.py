"""DeepSeek-VL and Janus: pictures of one size, every patch a token of the LLM."""

from __future__ import annotations

from typing import Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, tiled_encoder
from ..family import ANY, Family
from ..towers import SIGLIP
from .llava import LIKE_ONEVISION


def _dimensions(config: Any) -> EncoderDimensions:
    hidden, width = config.vision_config.hidden_size, config.get_text_config().hidden_size
    return tiled_encoder(config.vision_config, ((hidden, width), (width, width)))


def _janus_dimensions(config: Any) -> EncoderDimensions:
    vision = config.vision_config
    out = vision.projection_dim
    projector = ((vision.hidden_size, out), *((out, out),) * (vision.depth - 1))
    return tiled_encoder(vision, projector)


ENTRIES = (
    Family(
        "deepseek_vl",
        LIKE_ONEVISION,
        encoder="vision_model",
        projector="aligner",
        towers={"siglip_vision_model": SIGLIP},
        encoder_dimensions=_dimensions,
        tiny={
            "deepseek_vl": lambda: transformers.DeepseekVLConfig(
                vision_config=tiny.SIGLIP, text_config=tiny.LLAMA, image_token_id=tiny.IMAGE
            )
        },
    ),
    Family(
        "janus",
        LIKE_ONEVISION,
        encoder="vision_model",
        projector="aligner",
        towers={ANY: SIGLIP},
        encoder_dimensions=_janus_dimensions,
        config_attributes=("vision_config.projection_dim", "vision_config.depth"),
        tiny={
            "janus": lambda: transformers.JanusConfig(
                vision_config={**tiny.VISION, "image_size": 24, "patch_size": 4, "mlp_ratio": 1.5}
                | {"projection_dim": 32, "depth": 2, "num_image_tokens": 4},
                vq_config=dict(
                    embed_dim=8, num_embeddings=8, base_channels=32, channel_multiplier=[1], num_patches=4
                )
                | dict(num_res_blocks=1, latent_channels=8, num_hidden_layers=1, projection_dim=32)
                | {"image_token_embed_dim": 32},
                text_config=tiny.LLAMA,
                image_token_id=tiny.IMAGE,
            )
        },
    ),
)
