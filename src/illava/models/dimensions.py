"""Sizes that the cost model needs, read off transformers configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EncoderDimensions:
    """Sizes of an image encoder and its projector, in features."""

    depth: int
    hidden: int
    intermediate: int
    mlp_matrices: int
    """2 for up and down, 3 with a gate."""
    patch_values: int
    """Numbers that one patch embedding takes in."""
    projector: tuple[tuple[int, int], ...]
    """(in, out) of each linear map of the projector, applied to one feature of the LLM."""
    taps: tuple[int, ...] = ()
    """Blocks after which a projector of the same size feeds the LLM too (deepstack)."""


@dataclass(frozen=True)
class RecurrentDimensions:
    """Sizes of gated delta-rule layers (Qwen3.5)."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    """Tokens that the convolution in front sees."""
    chunk: int = 64
    """Tokens that are worked on at once in a prefill, to whole numbers of which it is padded."""


@dataclass(frozen=True)
class LlmDimensions:
    """Sizes of a decoder-only language model."""

    depth: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    router: float = 0
    """Numbers that decide which experts a token goes to, averaged over the layers."""
    gated: bool = False
    """Whether queries come with a gate of their size for the attention's output."""
    recurrent: RecurrentDimensions | None = None
    """What stands in the place of attention in recurrent layers."""


def llm_dimensions(config: Any) -> LlmDimensions:
    """Sizes of the language model of a VLM config."""
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return LlmDimensions(
        depth=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=_intermediate(text),
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=head_dim,
        vocabulary=text.vocab_size,
        router=_router(text),
        # Of the supported LLMs, those that have gated delta-rule layers gate their attention too.
        gated=hasattr(text, "linear_num_key_heads"),
        recurrent=_recurrent(text),
    )


def _recurrent(text: Any) -> RecurrentDimensions | None:
    if "linear_attention" not in (getattr(text, "layer_types", None) or ()):
        return None
    return RecurrentDimensions(
        text.linear_num_key_heads,
        text.linear_num_value_heads,
        text.linear_key_head_dim,
        text.linear_value_head_dim,
        text.linear_conv_kernel_dim,
    )


def _router(text: Any) -> float:
    experts = getattr(text, "num_experts", None) or getattr(text, "n_routed_experts", None) or 0
    # Qwen3.5's shared expert has a gate of its own.
    gates = experts + int(bool(getattr(text, "shared_expert_intermediate_size", 0)))
    dense = getattr(text, "first_k_dense_replace", 0)
    return float(gates * (text.num_hidden_layers - dense) / text.num_hidden_layers)


def _intermediate(text: Any) -> int:
    """Width of a layer's MLP; of a mixture of experts what a token goes through, averaged over the layers."""
    chosen = getattr(text, "num_experts_per_tok", None)
    if not chosen:
        return int(text.intermediate_size)
    width = chosen * text.moe_intermediate_size
    width += getattr(text, "shared_expert_intermediate_size", 0)
    width += getattr(text, "n_shared_experts", 0) * text.moe_intermediate_size
    dense = getattr(text, "first_k_dense_replace", 0)
    if not dense:
        return int(width)
    total = dense * text.intermediate_size + (text.num_hidden_layers - dense) * width
    average: float = total / text.num_hidden_layers
    return round(average)


def packed_encoder(
    vision: Any, hidden: int, intermediate: int, mlp_matrices: int, out: int
) -> EncoderDimensions:
    """Encoders of Qwen's kind, which name their widths differently; ``out`` is the language model's."""
    wide = hidden * vision.spatial_merge_size**2
    return EncoderDimensions(
        depth=vision.depth,
        hidden=hidden,
        intermediate=intermediate,
        mlp_matrices=mlp_matrices,
        patch_values=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        projector=((wide, wide), (wide, out)),
    )


def tiled_encoder(
    vision: Any, projector: tuple[tuple[int, int], ...], mlp_matrices: int = 2
) -> EncoderDimensions:
    """CLIP, SigLIP and towers that name their sizes likewise."""
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    return EncoderDimensions(
        depth=vision.num_hidden_layers,
        hidden=vision.hidden_size,
        intermediate=vision.intermediate_size,
        mlp_matrices=mlp_matrices,
        patch_values=vision.num_channels * patch**2,
        projector=projector,
    )
