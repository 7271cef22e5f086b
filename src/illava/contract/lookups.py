"""What illava looks up in a loaded model: module paths and config attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..families import Family
    from ..towers import Tower


def module_paths(family: Family) -> tuple[str, ...]:
    """Modules of the base model, as paths."""
    paths = (
        family.encoder,
        family.projector,
        family.llm,
        f"{family.llm}.{family.llm_layers}",
        family.taps,
        family.unfolds_after,
        family.unfolds_before,
        family.compacts_before,
        family.pooler,
    )
    return tuple(path for path in paths if path is not None)


def block_paths(tower: Tower) -> tuple[str, ...]:
    """Modules of an encoder block, as paths."""
    return (tower.attention, tower.second_norm, tower.mlp)


_TILED = ("image_grid_pinpoints", "vision_config.image_size")
_LLAVA = ("vision_feature_layer", "vision_feature_select_strategy")
_PATCHES = (
    "vision_config.patch_size",
    "vision_config.spatial_merge_size",
    "vision_config.temporal_patch_size",
)
CONFIG: dict[str, tuple[str, ...]] = {
    "*": ("image_token_id", "vision_config.model_type", "vision_config._attn_implementation"),
    "llava": _LLAVA,
    "vipllava": ("vision_feature_layer",),
    "llava_next": (*_LLAVA, *_TILED),
    "llava_next_video": (*_LLAVA, *_TILED, "video_token_id"),
    "llava_onevision": (*_LLAVA, *_TILED, "video_token_id"),
    "qwen2_vl": (*_PATCHES, "video_token_id"),
    "qwen2_5_vl": (
        *_PATCHES,
        "video_token_id",
        "vision_config.window_size",
        "vision_config.fullatt_block_indexes",
    ),
    "qwen3_vl": (*_PATCHES, "video_token_id", "vision_config.deepstack_visual_indexes"),
    "qwen3_vl_moe": (*_PATCHES, "video_token_id", "vision_config.deepstack_visual_indexes"),
    "qwen3_5": (*_PATCHES, "video_token_id"),
    "qwen3_5_moe": (*_PATCHES, "video_token_id"),
    "glm4v": (*_PATCHES, "video_token_id"),
    "glm4v_moe": (*_PATCHES, "video_token_id"),
    "glm46v": (*_PATCHES, "video_token_id"),
    "internvl": (*_LLAVA, "downsample_ratio"),
    "idefics3": ("scale_factor",),
    "smolvlm": ("scale_factor",),
    "mistral3": ("vision_feature_layer", "spatial_merge_size", "vision_config.patch_size"),
    "gemma3": ("mm_tokens_per_image", "vision_config.image_size", "vision_config.patch_size"),
    "paligemma": (),
}
"""Config attributes by the family's ``model_type``; "*": of all families. Many are read with a default, so
that a new name would go unnoticed."""

LLM_CONFIG: dict[str, tuple[str, ...]] = {
    "*": ("use_cache", "_attn_implementation"),
    "llama": (),
    "gemma": (),
    "qwen3_vl_text": (),
    "glm4v_text": (),
    "mistral": ("sliding_window",),
    "qwen2": ("sliding_window", "layer_types"),
    "qwen2_vl_text": ("sliding_window", "layer_types"),
    "qwen2_5_vl_text": ("sliding_window", "layer_types"),
    "gemma2": ("sliding_window", "layer_types"),
    "gemma3_text": ("sliding_window", "layer_types"),
    "qwen3_5_text": ("layer_types",),
    "qwen3_5_moe_text": ("layer_types", "output_router_logits"),
    "qwen3_vl_moe_text": ("output_router_logits",),
    "glm4v_moe_text": ("output_router_logits",),
}
"""The same of the LLM's config, by its own ``model_type``. The sizes of others are not read beforehand."""

LAYER_TYPES = ("full_attention", "sliding_attention", "linear_attention")
"""The kinds of LLM layers that illava has masks for."""
