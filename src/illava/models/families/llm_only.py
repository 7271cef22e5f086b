"""Families whose image encoder illava does not read: their tokens merge in the LLM only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import NO_ENCODER
from ..family import ANY, Family
from ..picture_layouts import packed_picture, tile_side
from ..towers import UNREAD
from ..workload import Run, Size, Workload, first
from .llava import LIKE_ONEVISION, tiny_llava

if TYPE_CHECKING:
    from ..located import LocatedModules

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
_TIMM = "its encoder is timm's, which does not use transformers' attention functions"


def _ocr_features(config: Any) -> int:
    """Queries for as many patches as one picture has, and a separator."""
    sam = config.vision_config.sam_config
    return (144 if (sam.image_size // sam.patch_size // 4) ** 2 <= 144 else 256) + 1


def _perceived(config: Any) -> int:
    size, patch = (first(config.vision_config.model_args[name]) for name in ("img_size", "patch_size"))
    return int((size // patch // config.projector_pooling_ratio) ** 2)


def _video(modules: LocatedModules, size: Size, frames: int) -> Workload:
    """Frames keep their class token."""
    tokens = tile_side(modules.config.vision_config) ** 2 + 1
    return Workload((tokens,) * frames, (Run(tuple((t, tokens) for t in range(frames))),), 0, video=True)


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
        encoder_refusal="each feature joins the tokens of two encoders at one place, one of them windowed on "
        "a grid, and both would have to drop the same",
        tiny={
            "deepseek_vl_hybrid": lambda: transformers.DeepseekVLHybridConfig(
                vision_config=tiny.SIGLIP,
                high_res_vision_config={"model_type": "sam_vision_model", **_SAM, "num_pos_feats": 8},
                text_config=tiny.LLAMA,
                image_token_id=tiny.IMAGE,
            )
        },
    ),
    Family(
        "deepseek_ocr2",
        SCHEDULE,
        **LLM_ONLY,
        encoder_refusal="windowed blocks with relative positions on a grid and convolutions, then a second "
        "encoder of fixed queries",
        features=_ocr_features,
        llm_attributes={"deepseek_ocr2_text": ("num_experts_per_tok", "n_routed_experts")},
        tiny={
            "deepseek_ocr2": lambda: transformers.DeepseekOcr2Config(
                vision_config={
                    "sam_config": {**_SAM, "image_size": 64, "downsample_channels": [12, 24]},
                    "encoder_config": {**tiny.TEXT, "hidden_size": 24, "num_hidden_layers": 2}
                    | {"num_attention_heads": 2, "num_key_value_heads": 2},
                },
                text_config={**tiny.TEXT, "moe_intermediate_size": 16, "n_routed_experts": 4}
                | {"num_experts_per_tok": 2, "n_shared_experts": 1}
                | {"mlp_layer_types": ["dense", *["sparse"] * 4]},
                image_token_id=tiny.IMAGE,
            )
        },
    ),
    Family(
        "fast_vlm",
        SCHEDULE,
        **LLM_ONLY,
        encoder_refusal="its encoder is timm's, made of convolution stages that shrink the grid",
        requires=("timm",),
        features=lambda config: int(config.image_seq_length),
        tiny={
            "fast_vlm": lambda: transformers.FastVlmConfig(
                vision_config={"architecture": "test_resnet", "hidden_size": 96, "model_args": {}},
                text_config=tiny.QWEN2,
                image_token_index=tiny.IMAGE,
                image_seq_length=4,
            )
        },
    ),
    Family(
        "perception_lm",
        SCHEDULE,
        **LLM_ONLY,
        encoder_refusal=_TIMM,
        requires=("timm",),
        features=_perceived,
        picture_format=lambda config: "tile",
        tiny={
            "perception_lm": lambda: transformers.PerceptionLMConfig(
                vision_config={
                    "architecture": "vit_pe_core_base_patch16_224",
                    "model_args": {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": [24, 24]}
                    | {"patch_size": 4, "global_pool": ""},
                },
                text_config=tiny.LLAMA,
                image_token_id=tiny.IMAGE,
                video_token_id=tiny.VIDEO,
                projector_pooling_ratio=2,
            )
        },
    ),
    Family(
        "muse_glimmer",
        SCHEDULE,
        **LLM_ONLY,
        projector="perception_emb_norm",
        encoder_refusal="windows of patches, not of the squares that become one feature, and their order is "
        "undone inside the encoder",
        group=lambda config: int(config.vision_config.merge_size**2),
        picture=packed_picture,
        picture_format=lambda config: "grid",
        config_attributes=("vision_config.merge_size", "vision_config.patch_size"),
        llm_attributes={"muse_glimmer_text": ("sliding_window", "layer_types")},
        tiny={
            "muse_glimmer": lambda: transformers.MuseGlimmerConfig(
                vision_config={**tiny.VISION, "patch_size": 4, "pos_emb_height": 4, "pos_emb_width": 4}
                | {"num_hidden_layers": 2},
                text_config={**tiny.TEXT, "head_dim": 8, "sliding_window": 24}
                | {"layer_types": [*["sliding_attention", "full_attention"] * 2, "full_attention"]},
                out_hidden_size=96,
                projector_hidden_size=40,
                image_token_id=tiny.IMAGE,
                video_token_id=tiny.VIDEO,
            )
        },
    ),
    Family(
        "video_llava",
        SCHEDULE,
        **LLM_ONLY,
        encoder="image_tower",
        encoder_refusal="one encoder is for pictures and another for videos, and illava reads only one",
        video=_video,
        config_attributes=("vision_config.image_size", "vision_config.patch_size", "video_token_id"),
        tiny={
            "video_llava": lambda: tiny_llava(
                transformers.VideoLlavaConfig, tiny.CLIP, tiny.LLAMA, video_token_index=tiny.VIDEO
            )
        },
    ),
)
