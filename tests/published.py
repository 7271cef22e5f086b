"""Sizes of published checkpoints, as their config.json files state them: at least one a family."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def _sizes(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, **more: Any) -> Json:
    return dict(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        **more,
    )


def _vit(
    layers: int, hidden: int, intermediate: int, heads: int, image: Any, patch: Any, **more: Any
) -> Json:
    return dict(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        image_size=image,
        patch_size=patch,
        **more,
    )


def _packed(depth: int, hidden: int, intermediate: int, heads: int, patch: int, **more: Any) -> Json:
    return dict(
        depth=depth,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_heads=heads,
        patch_size=patch,
        spatial_merge_size=2,
        temporal_patch_size=2,
        **more,
    )


def _mrope(*section: int, **more: Any) -> Json:
    return {"rope_type": "default", "mrope_section": list(section), **more}


def _model(model_type: str, vision: Json, text: Json, **more: Any) -> Json:
    return dict(model_type=model_type, vision_config=vision, text_config=text, **more)


# -- LLaVA and what is built like it -------------------------------------------------------------------

CLIP_LARGE = _vit(24, 1024, 4096, 16, 336, 14, model_type="clip_vision_model", projection_dim=768)
SO400M = _vit(27, 1152, 4304, 16, 224, 14, model_type="siglip_vision_model", vision_use_head=False)
SO400M_384 = {**SO400M, "num_hidden_layers": 26, "image_size": 384}  # OneVision left the last block out.
SO400M_896 = {**SO400M, "image_size": 896}
PIXTRAL = _vit(24, 1024, 4096, 16, 1024, 16, model_type="pixtral")
PIXTRAL_1540 = {**PIXTRAL, "image_size": 1540, "patch_size": 14}

VICUNA_7B = _sizes(32, 4096, 11008, 32, 32, model_type="llama", vocab_size=32064)
MISTRAL = dict(model_type="mistral", sliding_window=None)
MISTRAL_7B = _sizes(32, 4096, 14336, 32, 8, vocab_size=32064, **MISTRAL)
NEMO_12B = _sizes(40, 5120, 14336, 32, 8, head_dim=128, vocab_size=131072, **MISTRAL)
SMALL_24B = _sizes(40, 5120, 32768, 32, 8, head_dim=128, vocab_size=131072, **MISTRAL)
QWEN2_7B = _sizes(28, 3584, 18944, 28, 4)
QWEN2_72B = _sizes(80, 8192, 29568, 64, 8)
QWEN2_HALF_B = _sizes(24, 896, 4864, 14, 2)

PENULTIMATE = dict(vision_feature_layer=-2, vision_feature_select_strategy="default")
LAST = dict(vision_feature_layer=-1, vision_feature_select_strategy="full")

LLAVA = {
    "llava-hf/llava-1.5-7b-hf": _model("llava", CLIP_LARGE, VICUNA_7B, **PENULTIMATE),
    "mistral-community/pixtral-12b": _model("llava", PIXTRAL, NEMO_12B, **LAST),
    "llava-hf/vip-llava-7b-hf": _model(
        "vipllava", CLIP_LARGE, VICUNA_7B, vision_feature_layers=[-2, -5, -8, -11, 6]
    ),
    "llava-hf/llava-v1.6-mistral-7b-hf": _model("llava_next", CLIP_LARGE, MISTRAL_7B, **PENULTIMATE),
    "llava-hf/LLaVA-NeXT-Video-7B-hf": _model(
        "llava_next_video", CLIP_LARGE, VICUNA_7B, spatial_pool_mode="average", **PENULTIMATE
    ),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": _model(
        "llava_onevision", SO400M_384, {**QWEN2_7B, "model_type": "qwen2", "vocab_size": 152000}, **LAST
    ),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": _model(
        "llava_onevision", SO400M_384, {**QWEN2_HALF_B, "model_type": "qwen2", "vocab_size": 152000}, **LAST
    ),
    "mistralai/Mistral-Small-3.1-24B-Base-2503": _model(
        "mistral3", PIXTRAL_1540, SMALL_24B, spatial_merge_size=2, vision_feature_layer=-1
    ),
}

# -- Qwen ----------------------------------------------------------------------------------------------


def _flat(model_type: str, vision: Json, text: Json, vocabulary: int) -> Json:
    """Qwen2-VL and 2.5-VL state the sizes of their LLM beside vision_config."""
    rope = {"type": "mrope", "mrope_section": [16, 24, 24]}
    return dict(text, model_type=model_type, vision_config=vision, vocab_size=vocabulary, rope_scaling=rope)


def _qwen2_vision(width: int) -> Json:
    return dict(
        depth=32,
        embed_dim=1280,
        mlp_ratio=4,
        num_heads=16,
        hidden_size=width,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
    )


QWEN2_5_VISION = _packed(32, 1280, 3420, 16, 14, window_size=112, fullatt_block_indexes=[7, 15, 23, 31])
QWEN3_VISION = _packed(27, 1152, 4304, 16, 16, num_position_embeddings=2304)
QWEN3_TAPPED = {**QWEN3_VISION, "deepstack_visual_indexes": [8, 16, 24]}
QWEN3_SMALL_TAPPED = _packed(24, 1024, 4096, 16, 16, deepstack_visual_indexes=[5, 11, 17])
QWEN3_TINY_VISION = _packed(12, 768, 3072, 12, 16, num_position_embeddings=2304)
QWEN3_TEXT = dict(head_dim=128, vocab_size=151936, rope_scaling=_mrope(24, 20, 20, mrope_interleaved=True))
QWEN3_EXPERTS = dict(num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768)
QWEN3_5_TEXT = dict(
    head_dim=256,
    vocab_size=248320,
    full_attention_interval=4,
    linear_num_key_heads=16,
    rope_parameters=_mrope(11, 11, 10, mrope_interleaved=True, rope_theta=1e7, partial_rotary_factor=0.25),
)
QWEN3_5_EXPERTS = dict(
    num_experts=256, num_experts_per_tok=8, moe_intermediate_size=512, shared_expert_intermediate_size=512
)


def _qwen3(model_type: str, vision: Json, text: Json) -> Json:
    return _model(model_type, {**vision, "out_hidden_size": text["hidden_size"]}, text)


QWEN = {
    "Qwen/Qwen2-VL-7B-Instruct": _flat("qwen2_vl", _qwen2_vision(3584), QWEN2_7B, 152064),
    "Qwen/Qwen2-VL-72B-Instruct": _flat("qwen2_vl", _qwen2_vision(8192), QWEN2_72B, 152064),
    "Qwen/Qwen2.5-VL-7B-Instruct": _flat(
        "qwen2_5_vl", {**QWEN2_5_VISION, "out_hidden_size": 3584}, QWEN2_7B, 152064
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": _flat(
        "qwen2_5_vl", {**QWEN2_5_VISION, "out_hidden_size": 2048}, _sizes(36, 2048, 11008, 16, 2), 151936
    ),
    "Qwen/Qwen3-VL-8B-Instruct": _qwen3(
        "qwen3_vl", QWEN3_TAPPED, _sizes(36, 4096, 12288, 32, 8, **QWEN3_TEXT)
    ),
    "Qwen/Qwen3-VL-2B-Instruct": _qwen3(
        "qwen3_vl", QWEN3_SMALL_TAPPED, _sizes(28, 2048, 6144, 16, 8, **QWEN3_TEXT)
    ),
    "Qwen/Qwen3-VL-30B-A3B-Instruct": _qwen3(
        "qwen3_vl_moe", QWEN3_TAPPED, _sizes(48, 2048, 6144, 32, 4, **QWEN3_EXPERTS, **QWEN3_TEXT)
    ),
    "Qwen/Qwen3.5-9B": _qwen3(
        "qwen3_5", QWEN3_VISION, _sizes(32, 4096, 12288, 16, 4, linear_num_value_heads=32, **QWEN3_5_TEXT)
    ),
    "Qwen/Qwen3.5-0.8B": _qwen3(
        "qwen3_5", QWEN3_TINY_VISION, _sizes(24, 1024, 3584, 8, 2, linear_num_value_heads=16, **QWEN3_5_TEXT)
    ),
    "Qwen/Qwen3.5-35B-A3B": _qwen3(
        "qwen3_5_moe",
        QWEN3_VISION,
        dict(
            num_hidden_layers=40,
            hidden_size=2048,
            num_attention_heads=16,
            num_key_value_heads=2,
            linear_num_value_heads=32,
            **QWEN3_5_EXPERTS,
            **QWEN3_5_TEXT,
        ),
    ),
}

# -- GLM -----------------------------------------------------------------------------------------------

GLM_VISION = _packed(24, 1536, 13696, 12, 14, image_size=336, out_hidden_size=4096)
GLM_9B = _sizes(40, 4096, 13696, 32, 2, vocab_size=151552, rope_scaling=_mrope(8, 12, 12))
GLM_AIR = _sizes(
    46,
    4096,
    10944,
    96,
    8,
    head_dim=128,
    vocab_size=151552,
    moe_intermediate_size=1408,
    n_routed_experts=128,
    n_shared_experts=1,
    num_experts_per_tok=8,
    first_k_dense_replace=1,
    rope_scaling=_mrope(8, 12, 12),
)

GLM = {
    "zai-org/GLM-4.1V-9B-Thinking": _model("glm4v", GLM_VISION, GLM_9B),
    "zai-org/GLM-4.5V": _model("glm4v_moe", {**GLM_VISION, "intermediate_size": 10944}, GLM_AIR),
    # We know of no checkpoint whose config.json names this type; these are the sizes of the 9B models.
    "glm46v of 9B": _model(
        "glm46v",
        {**GLM_VISION, "model_type": "glm4v_vision"},
        {**GLM_9B, "model_type": "glm4v_text"},
    ),
}

# -- InternVL, Idefics, Gemma --------------------------------------------------------------------------

INTERN_300M = _vit(24, 1024, 4096, 16, [448, 448], [14, 14], attention_bias=True)
INTERN_6B = _vit(45, 3200, 12800, 25, [448, 448], [14, 14], norm_type="rms_norm", use_qk_norm=True)
SMOL_VISION = _vit(12, 768, 3072, 12, 512, 16)
SO400M_364 = _vit(27, 1152, 4304, 16, 364, 14)
GEMMA_2B = _sizes(18, 2048, 16384, 8, 1, model_type="gemma", head_dim=256, vocab_size=257216)
GEMMA2_2B = _sizes(26, 2304, 9216, 8, 4, model_type="gemma2", head_dim=256, vocab_size=257216)
GEMMA3 = dict(model_type="gemma3_text", sliding_window=1024, vocab_size=262208)


def _internvl(vision: Json, text: Json, vocabulary: int, token: int) -> Json:
    text = {"model_type": "qwen2", **text, "vocab_size": vocabulary}
    return _model("internvl", vision, text, downsample_ratio=0.5, image_seq_length=256, image_token_id=token)


OTHERS = {
    "OpenGVLab/InternVL3-1B-hf": _internvl(INTERN_300M, QWEN2_HALF_B, 151674, 151667),
    "OpenGVLab/InternVL3-38B-hf": _internvl(INTERN_6B, _sizes(64, 5120, 27648, 40, 8), 151674, 151667),
    "OpenGVLab/InternVL3_5-2B-HF": _internvl(
        INTERN_300M, _sizes(28, 2048, 6144, 16, 8, model_type="qwen3", head_dim=128), 151936, 151671
    ),
    "HuggingFaceM4/Idefics3-8B-Llama3": _model(
        "idefics3",
        SO400M_364,
        _sizes(32, 4096, 14336, 32, 8, model_type="llama", vocab_size=128259),
        scale_factor=2,
    ),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": _model(
        "smolvlm",
        {**SO400M_364, "image_size": 384},
        _sizes(24, 2048, 8192, 32, 32, model_type="llama", vocab_size=49280),
        scale_factor=3,
    ),
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": _model(
        "smolvlm",
        SMOL_VISION,
        _sizes(30, 576, 1536, 9, 3, model_type="llama", vocab_size=49280),
        scale_factor=4,
    ),
    "google/gemma-3-4b-it": _model(
        "gemma3", SO400M_896, _sizes(34, 2560, 10240, 8, 4, head_dim=256, **GEMMA3)
    ),
    "google/gemma-3-27b-it": _model(
        "gemma3", SO400M_896, _sizes(62, 5376, 21504, 32, 16, head_dim=128, **GEMMA3)
    ),
    "google/paligemma-3b-pt-224": _model("paligemma", SO400M, GEMMA_2B, projection_dim=2048),
    "google/paligemma2-3b-pt-224": _model("paligemma", SO400M, GEMMA2_2B, projection_dim=2304),
}

CONFIGS: dict[str, Json] = {**LLAVA, **QWEN, **GLM, **OTHERS}
