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
    width = vision.embed_dim
    return _packed_encoder(vision, width, int(width * vision.mlp_ratio), 2, vision.hidden_size)


def qwen2_5_vl_encoder(config: Any) -> EncoderShape:
    vision = config.vision_config
    return _packed_encoder(vision, vision.hidden_size, vision.intermediate_size, 3, vision.out_hidden_size)


def _packed_encoder(vision: Any, hidden: int, intermediate: int, matrices: int, out: int) -> EncoderShape:
    """Qwen's encoders name their widths differently; ``out`` is the language model's."""
    wide = hidden * vision.spatial_merge_size**2
    return EncoderShape(
        depth=vision.depth,
        hidden=hidden,
        intermediate=intermediate,
        mlp_matrices=matrices,
        patch_values=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        projector=((wide, wide), (wide, out)),
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
