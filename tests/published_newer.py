"""More sizes of published checkpoints, and the shares that their families' schedules keep."""

from __future__ import annotations

from illava.bench.published import (
    QWEN2_5_VISION,
    QWEN2_7B,
    QWEN2_HALF_B,
    QWEN3_TAPPED,
    SO400M,
    Json,
    composed,
    mrope,
    sizes,
    vit,
)

CLIP_LARGE = vit(24, 1024, 4096, 16, 224, 14, model_type="clip_vision_model", projection_dim=768)
SO400M_980 = vit(27, 1152, 4304, 16, 980, 14)
VICUNA_7B = sizes(32, 4096, 11008, 32, 32, model_type="llama", vocab_size=32064)
SAM = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, image_size=1024, patch_size=16)
TIMM: Json = dict(architecture="fastvit_mci3", hidden_size=3072, model_args={"inference_mode": True})
SEEN: Json = dict(
    architecture="vit_pe_core_large_patch14_336",
    model_args=dict(embed_dim=1024, depth=23, img_size=[448, 448], patch_size=14, global_pool=""),
)

CONFIGS: dict[str, Json] = {
    "Qwen/Qwen2.5-Omni-7B": composed(
        "qwen2_5_omni_thinker",
        QWEN2_5_VISION,
        {**QWEN2_7B, "rope_scaling": mrope(16, 24, 24, rope_theta=1e6)},
    ),
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": composed(
        "qwen3_omni_moe_thinker",
        QWEN3_TAPPED,
        sizes(48, 2048, 768, 32, 4, head_dim=128, vocab_size=152064, num_experts=128)
        | dict(num_experts_per_tok=8, moe_intermediate_size=768, rope_scaling=mrope(24, 20, 20)),
    ),
    # The sizes of EXAONE 4.0's LLM, and the defaults of transformers for the encoder.
    "exaone4_5 of 33B": composed(
        "exaone4_5", {}, sizes(64, 5120, 27392, 40, 8, model_type="exaone4", vocab_size=102400)
    ),
    # The defaults of transformers.
    "hyperclovax_vision_v2": composed(
        "hyperclovax_vision_v2",
        {**QWEN2_5_VISION, "model_type": "qwen2_5_vl_vision"},
        sizes(32, 4096, 11008, 32, 32, model_type="hyperclovax"),
    ),
    "nvidia/Cosmos3-Edge": composed("cosmos3_edge", {}, {}),
    "PaddlePaddle/PaddleOCR-VL": composed("paddleocr_vl", {}, {"rope_scaling": mrope(16, 24, 24)}),
    "HuggingFaceM4/idefics2-8b": composed(
        "idefics2", SO400M_980, sizes(32, 4096, 14336, 32, 8, model_type="mistral", vocab_size=32003)
    ),
    "rhymes-ai/Aria": composed(
        "aria",
        {**SO400M_980, "model_type": "idefics3_vision"},
        sizes(28, 2560, 1664, 20, 20, model_type="aria_text", moe_num_experts=64, moe_topk=6),
    ),
    "stepfun-ai/GOT-OCR-2.0-hf": composed(
        "got_ocr2", SAM, sizes(24, 1024, 2816, 16, 16, model_type="qwen2", vocab_size=151860)
    ),
    "deepseek-community/deepseek-vl-7b-chat": composed(
        "deepseek_vl_hybrid",
        {**SO400M, "num_hidden_layers": 24, "hidden_size": 1024, "image_size": 384, "patch_size": 16},
        sizes(30, 4096, 11008, 32, 32, model_type="llama", vocab_size=102400),
    ),
    "deepseek-community/DeepSeek-OCR-2": composed(
        "deepseek_ocr2",
        {"sam_config": SAM, "encoder_config": QWEN2_HALF_B},
        sizes(12, 1280, 6848, 10, 10, num_experts_per_tok=6, moe_intermediate_size=896)
        | {"mlp_layer_types": ["dense", *["sparse"] * 11]},
    ),
    "KamilaMila/FastVLM-7B": composed(
        "fast_vlm", {**TIMM, "model_type": "timm_wrapper"}, {**QWEN2_7B, "model_type": "qwen2"}
    ),
    "facebook/Perception-LM-1B": composed(
        "perception_lm",
        {**SEEN, "model_type": "timm_wrapper"},
        sizes(16, 2048, 8192, 32, 8, model_type="llama", vocab_size=128256),
        projector_pooling_ratio=2,
    ),
    "meta-models/Muse-Glimmer-30B": composed("muse_glimmer", {}, {}),
    "LanguageBind/Video-LLaVA-7B-hf": composed("video_llava", CLIP_LARGE, VICUNA_7B),
}

ONEVISION, SEVEN_TENTHS = (637 / 729, 545 / 637, 453 / 545, 361 / 453), (0.7,)
QWEN3, THREE_TIMES, FOUR_TIMES = (0.85,) * 4, (0.9,) * 3, (0.9,) * 4
TWICE = (0.7056, 0.7056)
# As in tests.test_published.
SCHEDULES = {
    "Qwen/Qwen2.5-Omni-7B": (32, 28, 4, 0, (7, 15), TWICE, (6, 7, 8), THREE_TIMES),
    # 48 layers: 25.3 28 30.7 33.3.
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": (27, 48, 4, 0, (5, 6, 7, 8), QWEN3, (25, 28, 30, 33), FOUR_TIMES),
    # Layers 3 7 11 ... see the whole prompt. 64 layers: 13.7 16 18.3, the last as near to 16 as to 20.
    "exaone4_5 of 33B": (32, 64, 4, 0, (7, 15), TWICE, (12, 16), (0.9, 0.81)),
    # 32 layers: 6.9 8 9.1.
    "hyperclovax_vision_v2": (32, 32, 4, 0, (7, 15), TWICE, (6, 8, 9), THREE_TIMES),
    # 28 layers: 14.8 16.3 17.9 19.4. 18: 9.5 10.5 11.5 12.5.
    "nvidia/Cosmos3-Edge": (27, 28, 4, 0, (5, 6, 7, 8), QWEN3, (14, 16, 17, 19), FOUR_TIMES),
    "PaddlePaddle/PaddleOCR-VL": (27, 18, 4, 0, (5, 6, 7, 8), QWEN3, (9, 10, 11, 12), FOUR_TIMES),
    # 32 layers: 9.1.
    "HuggingFaceM4/idefics2-8b": (27, 32, 1, 0, (5, 6, 7, 8), ONEVISION, (9,), SEVEN_TENTHS),
    "rhymes-ai/Aria": (27, 28, 1, 0, (5, 6, 7, 8), ONEVISION, (8,), SEVEN_TENTHS),
    # In the LLM only, whose encoders' blocks are not read. 24: 6.9. 30: 8.6. 12: 3.4. 16: 4.6.
    "stepfun-ai/GOT-OCR-2.0-hf": (0, 24, 1, 0, (), (), (6,), SEVEN_TENTHS),
    "deepseek-community/deepseek-vl-7b-chat": (0, 30, 1, 0, (), (), (8,), SEVEN_TENTHS),
    "deepseek-community/DeepSeek-OCR-2": (0, 12, 1, 0, (), (), (3,), SEVEN_TENTHS),
    "KamilaMila/FastVLM-7B": (0, 28, 1, 0, (), (), (8,), SEVEN_TENTHS),
    "facebook/Perception-LM-1B": (0, 16, 1, 0, (), (), (4,), SEVEN_TENTHS),
    # Layers 3 7 11 ... see the whole prompt. 52 layers: 14.9, as near to 12 as to 16 once rounded down.
    "meta-models/Muse-Glimmer-30B": (0, 52, 4, 0, (), (), (12,), SEVEN_TENTHS),
    "LanguageBind/Video-LLaVA-7B-hf": (0, 32, 1, 0, (), (), (9,), SEVEN_TENTHS),
}
