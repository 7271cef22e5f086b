"""Configs of tiny models, one a family that the library supports: every mechanism, a few thousand weights."""

from __future__ import annotations

from typing import Any

import transformers

IMAGE, VIDEO, START, END, PAD = 90, 91, 92, 93, 0

TEXT = dict(
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
LLAMA = {"model_type": "llama", **TEXT}
MISTRAL = {"model_type": "mistral", "sliding_window": None, "head_dim": 8, **TEXT}

VISION: dict[str, Any] = dict(
    hidden_size=24, intermediate_size=36, num_hidden_layers=5, num_attention_heads=3
)
SIGLIP = dict(model_type="siglip_vision_model", image_size=24, patch_size=4, vision_use_head=False, **VISION)
CLIP = dict(model_type="clip_vision_model", image_size=24, patch_size=4, projection_dim=16, **VISION)
PIXTRAL = {**VISION, "model_type": "pixtral", "hidden_size": 48, "image_size": 64, "patch_size": 4}
TILES = [[24, 48], [48, 24], [48, 48], [24, 24], [96, 96]]

TOKENS = dict(
    image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END
)
GLM_TOKENS = dict(
    image_token_id=IMAGE,
    video_token_id=VIDEO,
    image_start_token_id=START,
    image_end_token_id=END,
    video_start_token_id=94,
    video_end_token_id=95,
)
QWEN_VISION = dict(
    depth=5, hidden_size=24, intermediate_size=36, num_heads=3, patch_size=4, out_hidden_size=32
)
QWEN3_VISION = {**QWEN_VISION, "num_position_embeddings": 36, "deepstack_visual_indexes": [1, 3]}
QWEN3_5_VISION = {**QWEN_VISION, "num_position_embeddings": 36}
GLM_VISION = {**QWEN_VISION, "intermediate_size": 40, "image_size": 24}
QWEN_EXPERTS = dict(moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
GLM_EXPERTS = dict(
    moe_intermediate_size=16,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=1,
    first_k_dense_replace=1,
)


def _rope(*section: int, **more: Any) -> dict[str, Any]:
    return {
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": list(section),
            "rope_theta": 10000.0,
            **more,
        }
    }


QWEN3_TEXT = {**TEXT, "head_dim": 8, **_rope(2, 1, 1)}
# Full attention at layers 3 and 7.
HYBRID = {
    **TEXT,
    "head_dim": 32,
    "num_hidden_layers": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_conv_kernel_dim": 4,
    **_rope(2, 1, 1, partial_rotary_factor=0.25),
}
GLM_TEXT = {
    **TEXT,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    **_rope(1, 1, 2, partial_rotary_factor=0.5),
}


GEMMA = {**TEXT, "head_dim": 8, "query_pre_attn_scalar": 8}


def _types(letters: str) -> list[str]:
    return [{"s": "sliding_attention", "f": "full_attention"}[letter] for letter in letters]


def _llava(
    kind: type[transformers.PretrainedConfig], vision: Any, text: Any, **more: Any
) -> transformers.PretrainedConfig:
    return kind(vision_config=vision, text_config=text, image_token_index=IMAGE, **more)


CONFIGS = {
    "llava": lambda: _llava(transformers.LlavaConfig, CLIP, LLAMA),
    "llava-siglip": lambda: _llava(
        transformers.LlavaConfig,
        SIGLIP,
        QWEN2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    ),
    "llava-full": lambda: _llava(
        transformers.LlavaConfig, CLIP, LLAMA, vision_feature_select_strategy="full"
    ),
    "llava-pixtral": lambda: _llava(
        transformers.LlavaConfig,
        PIXTRAL,
        MISTRAL,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    ),
    "vipllava": lambda: _llava(transformers.VipLlavaConfig, CLIP, LLAMA, vision_feature_layer=[-1, -2]),
    "llava_next": lambda: _llava(transformers.LlavaNextConfig, CLIP, MISTRAL, image_grid_pinpoints=TILES),
    "llava_next_video": lambda: _llava(
        transformers.LlavaNextVideoConfig, CLIP, LLAMA, video_token_index=VIDEO, image_grid_pinpoints=TILES
    ),
    "llava_onevision": lambda: _llava(
        transformers.LlavaOnevisionConfig,
        SIGLIP,
        QWEN2,
        video_token_index=VIDEO,
        image_grid_pinpoints=TILES,
        vision_feature_layer=-1,
    ),
    "qwen2_vl": lambda: transformers.Qwen2VLConfig(
        text_config={**TEXT, **_rope(1, 1, 2)},
        vision_config=dict(depth=5, embed_dim=24, hidden_size=32, num_heads=3, mlp_ratio=2, patch_size=4),
        **TOKENS,
    ),
    "qwen2_5_vl": lambda: transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, **_rope(1, 1, 2)},
        vision_config={**QWEN_VISION, "window_size": 16, "fullatt_block_indexes": [1, 3]},
        **TOKENS,
    ),
    "qwen3_vl": lambda: transformers.Qwen3VLConfig(
        text_config=QWEN3_TEXT, vision_config=QWEN3_VISION, **TOKENS
    ),
    "qwen3_vl_moe": lambda: transformers.Qwen3VLMoeConfig(
        text_config={**QWEN3_TEXT, **QWEN_EXPERTS}, vision_config=QWEN3_VISION, **TOKENS
    ),
    "qwen3_5": lambda: transformers.Qwen3_5Config(text_config=HYBRID, vision_config=QWEN3_5_VISION, **TOKENS),
    "qwen3_5_moe": lambda: transformers.Qwen3_5MoeConfig(
        text_config={
            **{name: value for name, value in HYBRID.items() if name != "intermediate_size"},
            **QWEN_EXPERTS,
            "shared_expert_intermediate_size": 16,
        },
        vision_config=QWEN3_5_VISION,
        **TOKENS,
    ),
    "glm4v": lambda: transformers.Glm4vConfig(text_config=GLM_TEXT, vision_config=GLM_VISION, **GLM_TOKENS),
    "glm4v_moe": lambda: transformers.Glm4vMoeConfig(
        text_config={**GLM_TEXT, **GLM_EXPERTS}, vision_config=GLM_VISION, **GLM_TOKENS
    ),
    "glm46v": lambda: transformers.Glm46VConfig(
        text_config={"model_type": "glm4v_text", **GLM_TEXT},
        vision_config={"model_type": "glm4v_vision", **GLM_VISION},
        **GLM_TOKENS,
    ),
    "internvl": lambda: transformers.InternVLConfig(
        text_config={**QWEN2, "use_sliding_window": False},
        vision_config={**VISION, "image_size": [24, 24], "patch_size": [4, 4]},
        image_token_id=IMAGE,
        image_seq_length=9,
    ),
    "idefics3": lambda: transformers.Idefics3Config(
        text_config=LLAMA,
        vision_config={**VISION, "image_size": 24, "patch_size": 4},
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=PAD,
    ),
    "smolvlm": lambda: transformers.SmolVLMConfig(
        text_config=LLAMA,
        vision_config={**VISION, "image_size": 24, "patch_size": 4},
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=PAD,
    ),
    "mistral3": lambda: _llava(transformers.Mistral3Config, PIXTRAL, MISTRAL, spatial_merge_size=2),
    "gemma3": lambda: _llava(
        transformers.Gemma3Config,
        SIGLIP,
        {**GEMMA, "sliding_window": 24, "layer_types": _types("sfsfs")},
        boi_token_index=START,
        eoi_token_index=END,
        mm_tokens_per_image=9,
    ),
    "paligemma": lambda: _llava(
        transformers.PaliGemmaConfig,
        SIGLIP,
        {"model_type": "gemma", **TEXT, "head_dim": 8},
        projection_dim=32,
    ),
    "paligemma-2": lambda: _llava(
        transformers.PaliGemmaConfig,
        SIGLIP,
        {"model_type": "gemma2", **GEMMA, "sliding_window": 24, "layer_types": _types("sfsfs")},
        projection_dim=32,
    ),
    "llava-windows": lambda: _llava(transformers.LlavaConfig, CLIP, {**MISTRAL, "sliding_window": 30}),
}


def config(name: str) -> transformers.PretrainedConfig:
    """A fresh config: a family's name, or that and a variant of it."""
    return CONFIGS[name]()
