"""Aya Vision and Command A Vision: squares of patches fold in the projector, and LLM layers have windows."""

from __future__ import annotations

from typing import Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, tiled_encoder
from ..family import Family
from ..towers import SIGLIP_IN_SQUARES
from .llava import LIKE_ONEVISION

_COHERE: dict[str, Any] = {
    "unfolds_before": "multi_modal_projector",
    "towers": {"siglip_vision_model": SIGLIP_IN_SQUARES},
    "group": lambda config: int(config.downsample_factor**2),
}
_TEXT = {
    "model_type": "cohere2",
    **tiny.TEXT,
    "layer_types": [*["sliding_attention", "full_attention"] * 2, "full_attention"],
}
_TINY: dict[str, Any] = dict(
    vision_config=tiny.SIGLIP, text_config=_TEXT, downsample_factor=2, alignment_intermediate_size=40
)


def _dimensions(config: Any) -> EncoderDimensions:
    wide = config.vision_config.hidden_size * config.downsample_factor**2
    width = config.get_text_config().hidden_size
    inner = getattr(config, "alignment_intermediate_size", width)
    # The second half of the inner features gates the first.
    return tiled_encoder(config.vision_config, ((wide, inner), (inner // 2, width)))


ENTRIES = (
    Family(
        "aya_vision",
        LIKE_ONEVISION,
        **_COHERE,
        compacts_before="multi_modal_projector.layernorm",
        encoder_dimensions=_dimensions,
        config_attributes=("vision_feature_layer", "downsample_factor"),
        tiny={"aya_vision": lambda: transformers.AyaVisionConfig(image_token_index=tiny.IMAGE, **_TINY)},
    ),
    Family(
        "cohere2_vision",
        LIKE_ONEVISION,
        **_COHERE,
        compacts_before="multi_modal_projector.linear_1",
        encoder_dimensions=_dimensions,
        config_attributes=("downsample_factor", "alignment_intermediate_size"),
        tiny={
            "cohere2_vision": lambda: transformers.Cohere2VisionConfig(
                image_token_id=tiny.IMAGE, **{**_TINY, "text_config": {**_TEXT, "sliding_window": 24}}
            )
        },
    ),
)
