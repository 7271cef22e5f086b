"""Sizes that the cost model needs, read from transformers configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ResamplerDimensions:
    """Sizes of a resampler, whose queries read the patches of a picture by cross-attention."""

    queries: int
    """Of one picture."""
    layers: tuple[tuple[int, int], ...]
    """(in, out) features of each linear layer that is applied once per query."""
    width: int
    """Of the queries of all heads, summed over the layers of cross-attention."""
    joined: bool = False
    """Whether the queries are keys as well."""


@dataclass(frozen=True)
class EncoderDimensions:
    """Sizes of an image encoder and its projector."""

    depth: int
    hidden: int
    intermediate: int
    mlp_matrices: int
    """2 for up and down projections, 3 with a gate."""
    patch_values: int
    """Input values of the patch embedding, per patch."""
    projector: tuple[tuple[int, int], ...]
    """(in, out) features of each linear layer of the projector, applied once per visual token."""
    kv_share: float = 1.0
    """Key and value heads per query head."""
    resampler: ResamplerDimensions | None = None
    """``projector`` then has the layers that are applied once per patch."""
    taps: tuple[int, ...] = ()
    """Blocks after which another projector of the same size feeds the LLM (deepstack)."""


NO_ENCODER = EncoderDimensions(0, 0, 0, 0, 0, ())
"""Of a family whose encoder illava does not read: its cost is left out."""


@dataclass(frozen=True)
class RecurrentDimensions:
    """Sizes of gated delta-rule layers (Qwen3.5)."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    """Kernel size of the convolution before the recurrence, in tokens."""
    chunk: int = 64
    """Tokens that a prefill processes at once; it is padded to a multiple of this."""


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
    """Router outputs per token (logits of experts and gates), averaged over the layers."""
    gated: bool = False
    """Whether the query projection also computes a gate of the same size for the attention's output."""
    recurrent: RecurrentDimensions | None = None
    """Sizes of the layers that replace attention in recurrent layers, or None."""


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
        # Among the supported LLMs, those with gated delta-rule layers also gate their attention.
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
    names = ("num_experts", "n_routed_experts", "moe_num_experts")
    experts = next((count for name in names if (count := getattr(text, name, None))), 0)
    # Qwen3.5's shared expert has a gate of its own.
    gates = experts + int(bool(getattr(text, "shared_expert_intermediate_size", 0)))
    dense = _dense_layers(text)
    return float(gates * (text.num_hidden_layers - dense) / text.num_hidden_layers)


def _dense_layers(text: Any) -> int:
    """Layers of a mixture of experts that have one MLP."""
    types = list(getattr(text, "mlp_layer_types", None) or ())
    return int(getattr(text, "first_k_dense_replace", None) or types.count("dense"))


def _intermediate(text: Any) -> int:
    """Width of a layer's MLP; for mixtures of experts the active width, averaged over the layers."""
    if (active := getattr(text, "moe_topk", None)) is not None:
        return int((active + text.moe_num_shared_experts) * text.intermediate_size)
    experts = getattr(text, "num_experts_per_tok", None)
    if not experts:
        return int(text.intermediate_size)
    width = experts * text.moe_intermediate_size
    width += getattr(text, "shared_expert_intermediate_size", 0)
    width += getattr(text, "n_shared_experts", 0) * text.moe_intermediate_size
    dense = _dense_layers(text)
    if not dense:
        return int(width)
    total = dense * text.intermediate_size + (text.num_hidden_layers - dense) * width
    average: float = total / text.num_hidden_layers
    return round(average)


def packed_encoder(
    vision: Any, hidden: int, intermediate: int, mlp_matrices: int, out: int
) -> EncoderDimensions:
    """Sizes of encoders like Qwen-VL's, whose configs name their widths differently.

    ``out`` is the hidden size of the language model.
    """
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
    """Sizes of CLIP, SigLIP, DINOv2 and encoders whose configs use the same names."""
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    if hasattr(vision, "mlp_ratio"):
        intermediate, mlp_matrices = _mlp_of_ratio(vision)
    else:
        intermediate = vision.intermediate_size
    return EncoderDimensions(
        depth=vision.num_hidden_layers,
        hidden=vision.hidden_size,
        intermediate=intermediate,
        mlp_matrices=mlp_matrices,
        patch_values=vision.num_channels * patch**2,
        projector=projector,
    )


def _mlp_of_ratio(vision: Any) -> tuple[int, int]:
    """Width and number of matrices of an MLP whose config states a ratio; it may be gated in DINOv2."""
    wide = int(vision.hidden_size * vision.mlp_ratio)
    if not getattr(vision, "use_swiglu_ffn", False):
        return wide, 2
    # A gated MLP has two thirds of the width, rounded up to a multiple of 8.
    return (int(wide * 2 / 3) + 7) // 8 * 8, 3
