"""What a pass through a vision-language model costs: FLOPs and key/value bytes, from sizes alone.

Pure integer functions. A multiply-add counts as two operations; attention counts every query-key pair it
is handed, the masked half of causal attention included, as torch.utils.flop_counter does. Norms,
activations, softmax and the merging itself are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderShape:
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
class LlmShape:
    """Sizes of a decoder-only language model."""

    depth: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


def encoder_block_flops(shape: EncoderShape, segments: Sequence[int], mlp_tokens: int | None = None) -> int:
    """FLOPs of one encoder block.

    Args:
        segments: tokens of each attention sequence (picture, tile, frame or window).
        mlp_tokens: tokens that reach the MLP, fewer than the sum of ``segments`` where the block merges.
    """
    tokens = sum(segments)
    mlp_tokens = tokens if mlp_tokens is None else mlp_tokens
    projections = 2 * tokens * 4 * shape.hidden**2
    attention = 4 * shape.hidden * sum(n * n for n in segments)
    mlp = 2 * mlp_tokens * shape.mlp_matrices * shape.hidden * shape.intermediate
    return projections + attention + mlp


def patch_embedding_flops(shape: EncoderShape, tokens: int) -> int:
    """FLOPs of turning ``tokens`` patches into embeddings."""
    return 2 * tokens * shape.patch_values * shape.hidden


def projector_flops(shape: EncoderShape, features: int) -> int:
    """FLOPs of projecting ``features`` encoder units into the LLM's width."""
    return 2 * features * sum(a * b for a, b in shape.projector)


def llm_layer_flops(shape: LlmShape, tokens: int, keys: int | None = None) -> int:
    """FLOPs of one decoder layer on ``tokens`` new tokens and ``keys`` keys (default: those tokens)."""
    keys = tokens if keys is None else keys
    width = shape.heads * shape.head_dim
    projections = 2 * tokens * shape.hidden * (2 * width + 2 * shape.kv_heads * shape.head_dim)
    attention = 4 * tokens * keys * width
    return projections + attention + 2 * tokens * 3 * shape.hidden * shape.intermediate


def head_flops(shape: LlmShape, positions: int = 1) -> int:
    """FLOPs of the language-model head; ``generate`` asks for one position a sequence."""
    return 2 * positions * shape.hidden * shape.vocabulary


def kv_bytes(shape: LlmShape, tokens_per_layer: Sequence[int], element_size: int) -> int:
    """Bytes of keys and values held after prefill, given the tokens each layer holds."""
    return sum(tokens_per_layer) * 2 * shape.kv_heads * shape.head_dim * element_size
