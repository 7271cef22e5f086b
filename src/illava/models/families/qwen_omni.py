"""The thinkers of Qwen2.5-Omni and Qwen3-Omni: encoders and LLMs like Qwen-VL's, with audio too."""

from __future__ import annotations

from typing import Any

import transformers

from .. import tiny_configs as tiny
from ..family import Family
from ..picture_layouts import packed_video
from .qwen2_vl import LIKE_QWEN2_5_VL, SLIDING, WINDOWED, WINDOWED_VISION
from .qwen3_vl import DEEPSTACK, EXPERTS, LIKE_QWEN3_VL, TAPPED_VISION, TEXT

_TOKENS: dict[str, Any] = dict(
    image_token_id=tiny.IMAGE, video_token_id=tiny.VIDEO, audio_token_id=89, audio_start_token_id=88
) | dict(vision_start_token_id=tiny.START, vision_end_token_id=tiny.END)
_AUDIO: dict[str, Any] = dict(
    num_mel_bins=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, d_model=16, output_dim=32
)
# Positions follow from the placeholders, without types of tokens.
_UNTYPED: dict[str, Any] = {"token_types": lambda kinds: {}, "noise": None, "all_logits": True}

ENTRIES = (
    Family(
        "qwen2_5_omni_thinker",
        LIKE_QWEN2_5_VL,
        **{**WINDOWED, **_UNTYPED},
        llm_attributes={"qwen2_5_omni_text": SLIDING},
        tiny={
            "qwen2_5_omni_thinker": lambda: transformers.Qwen2_5OmniThinkerConfig(
                text_config={**tiny.TEXT, **tiny.rope(1, 1, 2)},
                vision_config=WINDOWED_VISION,
                audio_config=_AUDIO,
                **_TOKENS,
            )
        },
    ),
    Family(
        "qwen3_omni_moe_thinker",
        LIKE_QWEN3_VL,
        **{**DEEPSTACK, **_UNTYPED, "taps": "visual.merger_list", "video": packed_video},
        llm_attributes={"qwen3_omni_moe_text": ("output_router_logits",)},
        tiny={
            "qwen3_omni_moe_thinker": lambda: transformers.Qwen3OmniMoeThinkerConfig(
                text_config={**TEXT, **EXPERTS},
                vision_config=TAPPED_VISION,
                audio_config={**_AUDIO, "downsample_hidden_size": 8},
                **_TOKENS,
            )
        },
    ),
)
