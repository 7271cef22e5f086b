"""Building blocks of the configs of tiny models: all mechanisms of a family, with a few thousand weights."""

from __future__ import annotations

from typing import Any

IMAGE, VIDEO, START, END, PAD = 90, 91, 92, 93, 0

TEXT: dict[str, Any] = dict(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    pad_token_id=PAD,
    bos_token_id=1,
    eos_token_id=2,
)
QWEN2 = {"model_type": "qwen2", **TEXT}
QWEN3 = {"model_type": "qwen3", "head_dim": 8, **TEXT}
LLAMA = {"model_type": "llama", **TEXT}
MISTRAL = {"model_type": "mistral", "sliding_window": None, "head_dim": 8, **TEXT}

VISION: dict[str, Any] = dict(
    hidden_size=24, intermediate_size=36, num_hidden_layers=5, num_attention_heads=3
)
SIGLIP = dict(model_type="siglip_vision_model", image_size=24, patch_size=4, vision_use_head=False, **VISION)
CLIP = dict(model_type="clip_vision_model", image_size=24, patch_size=4, projection_dim=16, **VISION)
_DINOV2 = dict(
    image_size=24,
    patch_size=4,
    hidden_size=24,
    num_hidden_layers=5,
    num_attention_heads=3,
    mlp_ratio=2,
    layerscale_value=0.7,
)
DINOV2 = dict(model_type="dinov2", **_DINOV2)
DINOV2_WITH_REGISTERS = dict(
    model_type="dinov2_with_registers", num_register_tokens=3, use_swiglu_ffn=True, **_DINOV2
)
PIXTRAL = {**VISION, "model_type": "pixtral", "hidden_size": 48, "image_size": 64, "patch_size": 4}
TILES = [[24, 48], [48, 24], [48, 48], [24, 24], [96, 96]]

TOKENS: dict[str, Any] = dict(
    image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END
)
QWEN_VISION: dict[str, Any] = dict(
    depth=5, hidden_size=24, intermediate_size=36, num_heads=3, patch_size=4, out_hidden_size=32
)


def rope(*section: int, **more: Any) -> dict[str, Any]:
    """Rotary positions over time, height and width."""
    return {
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": list(section),
            "rope_theta": 10000.0,
            **more,
        }
    }
