"""GOT-OCR2, DeepSeek-VL with a second encoder, and Aria: tokens merge in the LLM only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import NO_ENCODER
from ..family import ANY, Family
from ..picture_layouts import tile_side
from ..towers import UNREAD
from .llava import LIKE_ONEVISION

SCHEDULE = replace(
    LIKE_ONEVISION,
    encoder_layers=(),
    encoder_keep=(),
    source="LLaVA-OneVision's LLM stage, none was published for it",
)
LLM_ONLY: dict[str, Any] = {
    "towers": {ANY: UNREAD},
    "encoder_dimensions": lambda config: NO_ENCODER,
}
_SAM: dict[str, Any] = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=32,
    patch_size=4,
    output_channels=8,
    window_size=3,
    global_attn_indexes=[1],
    mlp_dim=24,
)


def _tiny_got() -> Any:
    config = transformers.GotOcr2Config(
        vision_config={**_SAM, "image_size": 64}, text_config=tiny.QWEN2, image_token_index=tiny.IMAGE
    )
    # Its encoder supports eager attention only.
    config._attn_implementation = "eager"
    return config


ENTRIES = (
    Family(
        "got_ocr2",
        SCHEDULE,
        **LLM_ONLY,
        encoder_refusal="windowed blocks on a grid with relative positions, then convolutions that shrink it",
        # Two convolutions halve each side.
        features=lambda config: (tile_side(config.vision_config) // 4) ** 2,
        tiny={"got_ocr2": _tiny_got},
    ),
    Family(
        "deepseek_vl_hybrid",
        SCHEDULE,
        **LLM_ONLY,
        encoder="vision_model",
        projector="aligner",
        encoder_refusal="each feature joins the tokens of two encoders at one place, one of them windowed on a "
        "grid, and both would have to drop the same",
        tiny={
            "deepseek_vl_hybrid": lambda: transformers.DeepseekVLHybridConfig(
                vision_config=tiny.SIGLIP,
                high_res_vision_config={"model_type": "sam_vision_model", **_SAM, "num_pos_feats": 8},
                text_config=tiny.LLAMA,
                image_token_id=tiny.IMAGE,
            )
        },
    ),
)
