"""Sizes that the cost model needs, read off transformers configs."""

from __future__ import annotations

from typing import Any

from .cost import EncoderShape, LlmShape


def llm_shape(config: Any) -> LlmShape:
    """Sizes of the language model of a VLM config."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return LlmShape(
        depth=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=head_dim,
        vocabulary=text.vocab_size,
    )


def qwen2_vl_encoder(config: Any) -> EncoderShape:
    vision = config.vision_config
    wide = vision.embed_dim * vision.spatial_merge_size**2
    return EncoderShape(
        depth=vision.depth,
        hidden=vision.embed_dim,
        intermediate=int(vision.embed_dim * vision.mlp_ratio),
        mlp_matrices=2,
        patch_values=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        projector=((wide, wide), (wide, vision.hidden_size)),
    )


def qwen2_5_vl_encoder(config: Any) -> EncoderShape:
    vision = config.vision_config
    wide = vision.hidden_size * vision.spatial_merge_size**2
    return EncoderShape(
        depth=vision.depth,
        hidden=vision.hidden_size,
        intermediate=vision.intermediate_size,
        mlp_matrices=3,
        patch_values=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        projector=((wide, wide), (wide, vision.out_hidden_size)),
    )


def siglip_encoder(config: Any) -> EncoderShape:
    vision, width = config.vision_config, config.get_text_config().hidden_size
    return EncoderShape(
        depth=vision.num_hidden_layers,
        hidden=vision.hidden_size,
        intermediate=vision.intermediate_size,
        mlp_matrices=2,
        patch_values=vision.num_channels * vision.patch_size**2,
        projector=((vision.hidden_size, width), (width, width)),
    )
