"""Sizes of published checkpoints, as their config.json files state them: at least one a family.

Those that can be measured by name as well are stated in illava.bench.published.
"""

from __future__ import annotations

from illava.bench.published import (
    INTERN_6B,
    INTERN_300M,
    QWEN2_72B,
    QWEN2_HALF_B,
    QWEN3_TAPPED,
    QWEN3_TEXT,
    QWEN3_VISION,
    SHAPES,
    SO400M,
    Json,
    composed,
    flat,
    internvl,
    mrope,
    packed,
    qwen2_vision,
    qwen3,
    sizes,
    vit,
)
from tests import published_newer

# -- LLaVA and what is built like it -------------------------------------------------------------------

CLIP_LARGE = vit(24, 1024, 4096, 16, 336, 14, model_type="clip_vision_model", projection_dim=768)
SO400M_896 = {**SO400M, "image_size": 896}
PIXTRAL = vit(24, 1024, 4096, 16, 1024, 16, model_type="pixtral")
PIXTRAL_1540 = {**PIXTRAL, "image_size": 1540, "patch_size": 14}

VICUNA_7B = sizes(32, 4096, 11008, 32, 32, model_type="llama", vocab_size=32064)
MISTRAL = dict(model_type="mistral", sliding_window=None)
MISTRAL_7B = sizes(32, 4096, 14336, 32, 8, vocab_size=32064, **MISTRAL)
NEMO_12B = sizes(40, 5120, 14336, 32, 8, head_dim=128, vocab_size=131072, **MISTRAL)
SMALL_24B = sizes(40, 5120, 32768, 32, 8, head_dim=128, vocab_size=131072, **MISTRAL)

PENULTIMATE = dict(vision_feature_layer=-2, vision_feature_select_strategy="default")
LAST = dict(vision_feature_layer=-1, vision_feature_select_strategy="full")

LLAVA = {
    "llava-hf/llava-1.5-7b-hf": composed("llava", CLIP_LARGE, VICUNA_7B, **PENULTIMATE),
    "mistral-community/pixtral-12b": composed("llava", PIXTRAL, NEMO_12B, **LAST),
    "llava-hf/vip-llava-7b-hf": composed(
        "vipllava", CLIP_LARGE, VICUNA_7B, vision_feature_layers=[-2, -5, -8, -11, 6]
    ),
    "llava-hf/llava-v1.6-mistral-7b-hf": composed("llava_next", CLIP_LARGE, MISTRAL_7B, **PENULTIMATE),
    "llava-hf/LLaVA-NeXT-Video-7B-hf": composed(
        "llava_next_video", CLIP_LARGE, VICUNA_7B, spatial_pool_mode="average", **PENULTIMATE
    ),
    "mistralai/Mistral-Small-3.1-24B-Base-2503": composed(
        "mistral3", PIXTRAL_1540, SMALL_24B, spatial_merge_size=2, vision_feature_layer=-1
    ),
}

# -- Qwen ----------------------------------------------------------------------------------------------

QWEN3_TINY_VISION = packed(12, 768, 3072, 12, 16, num_position_embeddings=2304)
QWEN3_EXPERTS = dict(num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768)
QWEN3_5_TEXT = dict(
    head_dim=256,
    vocab_size=248320,
    full_attention_interval=4,
    linear_num_key_heads=16,
    rope_parameters=mrope(11, 11, 10, mrope_interleaved=True, rope_theta=1e7, partial_rotary_factor=0.25),
)
QWEN3_5_EXPERTS = dict(
    num_experts=256, num_experts_per_tok=8, moe_intermediate_size=512, shared_expert_intermediate_size=512
)

QWEN = {
    "Qwen/Qwen2-VL-72B-Instruct": flat("qwen2_vl", qwen2_vision(8192), QWEN2_72B, 152064),
    "Qwen/Qwen3-VL-30B-A3B-Instruct": qwen3(
        "qwen3_vl_moe", QWEN3_TAPPED, sizes(48, 2048, 6144, 32, 4, **QWEN3_EXPERTS, **QWEN3_TEXT)
    ),
    "Qwen/Qwen3.5-9B": qwen3(
        "qwen3_5", QWEN3_VISION, sizes(32, 4096, 12288, 16, 4, linear_num_value_heads=32, **QWEN3_5_TEXT)
    ),
    "Qwen/Qwen3.5-0.8B": qwen3(
        "qwen3_5", QWEN3_TINY_VISION, sizes(24, 1024, 3584, 8, 2, linear_num_value_heads=16, **QWEN3_5_TEXT)
    ),
    "Qwen/Qwen3.5-35B-A3B": qwen3(
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

GLM_VISION = packed(24, 1536, 13696, 12, 14, image_size=336, out_hidden_size=4096)
GLM_9B = sizes(40, 4096, 13696, 32, 2, vocab_size=151552, rope_scaling=mrope(8, 12, 12))
GLM_AIR = sizes(
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
    rope_scaling=mrope(8, 12, 12),
)

GLM = {
    "zai-org/GLM-4.1V-9B-Thinking": composed("glm4v", GLM_VISION, GLM_9B),
    "zai-org/GLM-4.5V": composed("glm4v_moe", {**GLM_VISION, "intermediate_size": 10944}, GLM_AIR),
    # We know of no checkpoint whose config.json names this type; these are the sizes of the 9B models.
    "glm46v of 9B": composed(
        "glm46v",
        {**GLM_VISION, "model_type": "glm4v_vision"},
        {**GLM_9B, "model_type": "glm4v_text"},
    ),
}

# -- InternVL, Idefics, Gemma --------------------------------------------------------------------------

SMOL_VISION = vit(12, 768, 3072, 12, 512, 16)
SO400M_364 = vit(27, 1152, 4304, 16, 364, 14)
GEMMA_2B = sizes(18, 2048, 16384, 8, 1, model_type="gemma", head_dim=256, vocab_size=257216)
GEMMA2_2B = sizes(26, 2304, 9216, 8, 4, model_type="gemma2", head_dim=256, vocab_size=257216)
GEMMA3 = dict(model_type="gemma3_text", sliding_window=1024, vocab_size=262208)

OTHERS = {
    "OpenGVLab/InternVL3-38B-hf": internvl(INTERN_6B, sizes(64, 5120, 27648, 40, 8), 151674, 151667),
    "OpenGVLab/InternVL3_5-2B-HF": internvl(
        INTERN_300M, sizes(28, 2048, 6144, 16, 8, model_type="qwen3", head_dim=128), 151936, 151671
    ),
    "HuggingFaceM4/Idefics3-8B-Llama3": composed(
        "idefics3",
        SO400M_364,
        sizes(32, 4096, 14336, 32, 8, model_type="llama", vocab_size=128259),
        scale_factor=2,
    ),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": composed(
        "smolvlm",
        {**SO400M_364, "image_size": 384},
        sizes(24, 2048, 8192, 32, 32, model_type="llama", vocab_size=49280),
        scale_factor=3,
    ),
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": composed(
        "smolvlm",
        SMOL_VISION,
        sizes(30, 576, 1536, 9, 3, model_type="llama", vocab_size=49280),
        scale_factor=4,
    ),
    "google/gemma-3-4b-it": composed(
        "gemma3", SO400M_896, sizes(34, 2560, 10240, 8, 4, head_dim=256, **GEMMA3)
    ),
    "google/gemma-3-27b-it": composed(
        "gemma3", SO400M_896, sizes(62, 5376, 21504, 32, 16, head_dim=128, **GEMMA3)
    ),
    "google/paligemma-3b-pt-224": composed("paligemma", SO400M, GEMMA_2B, projection_dim=2048),
    "google/paligemma2-3b-pt-224": composed("paligemma", SO400M, GEMMA2_2B, projection_dim=2304),
}

# -- Cohere, DeepSeek, Janus, OCR ----------------------------------------------------------------------

SIGLIP_LARGE = vit(24, 1024, 4096, 16, 384, 16)
COHERE2 = dict(model_type="cohere2", head_dim=128, vocab_size=256000, sliding_window=4096)
DEEPSEEK_1B = sizes(24, 2048, 5632, 16, 16, model_type="llama", vocab_size=102400)
QWEN3_DENSE = dict(model_type="qwen3", head_dim=128)

NEWER = {
    "CohereLabs/aya-vision-8b": composed(
        "aya_vision",
        {**SO400M_364, "model_type": "siglip_vision_model", "vision_use_head": False},
        sizes(32, 4096, 14336, 32, 8, **COHERE2),
        alignment_intermediate_size=28672,
    ),
    "CohereLabs/command-a-vision-07-2025": composed(
        "cohere2_vision",
        {**SO400M, "image_size": 512, "patch_size": 16},
        sizes(64, 12288, 36864, 96, 8, **COHERE2),
    ),
    "deepseek-community/deepseek-vl-1.3b-chat": composed(
        "deepseek_vl", {**SIGLIP_LARGE, "model_type": "siglip_vision_model"}, DEEPSEEK_1B
    ),
    "deepseek-community/Janus-Pro-1B": composed("janus", SIGLIP_LARGE, DEEPSEEK_1B),
    "thisisiron/Ovis2-1B-hf": composed(
        "ovis2",
        vit(24, 1024, 2816, 8, 448, 14, hidden_stride=2, vocab_size=65536),
        {**QWEN2_HALF_B, "model_type": "qwen2"},
        hidden_size=896,
    ),
    "lightonai/LightOnOCR-1B-1025": composed(
        "lighton_ocr", PIXTRAL_1540, sizes(28, 1024, 3072, 16, 8, vocab_size=151936, **QWEN3_DENSE)
    ),
    "baidu/Qianfan-OCR": composed(
        "qianfan_ocr", INTERN_300M, sizes(36, 2560, 9728, 32, 8, **QWEN3_DENSE), downsample_ratio=0.5
    ),
    "zai-org/GLM-OCR": composed(
        "glm_ocr",
        packed(24, 1024, 4096, 16, 14, out_hidden_size=1536),
        sizes(16, 1536, 4608, 16, 8, head_dim=128, rope_parameters=mrope(16, 24, 24, rope_theta=10000)),
    ),
    # We know of no checkpoints of these: the sizes of Qwen3-VL-8B, and the defaults of transformers.
    "cosmos3_omni of 8B": qwen3("cosmos3_omni", QWEN3_TAPPED, sizes(36, 4096, 12288, 32, 8, **QWEN3_TEXT)),
    "cohere_compass of 32B": qwen3(
        "cohere_compass",
        QWEN3_TAPPED,
        sizes(
            40,
            8192,
            22528,
            64,
            64,
            vocab_size=256000,
            layer_types=[*["sliding_attention"] * 3, "full_attention"] * 10,
            rope_parameters={
                "sliding_attention": mrope(24, 20, 20, rope_theta=50000),
                "full_attention": None,
            },
        ),
    ),
}

NAMED = {
    SHAPES[name].checkpoint: SHAPES[name].config
    for name in (
        "llava-onevision-7b",
        "llava-onevision-0.5b",
        "qwen2-vl-7b",
        "qwen2.5-vl-7b",
        "qwen2.5-vl-3b",
        "qwen3-vl-8b",
        "qwen3-vl-2b",
        "internvl3-1b",
    )
}

CONFIGS: dict[str, Json] = {**NAMED, **LLAVA, **QWEN, **GLM, **OTHERS, **NEWER, **published_newer.CONFIGS}
