"""The cost of a forward pass of a vision-language model, computed from dimensions and token counts.

Costs are FLOPs, bytes of the KV cache and peak memory. All functions are pure integer arithmetic. As in
``torch.utils.flop_counter``, a multiply-add counts as two operations, and attention counts every query-key
pair, including the masked half of causal attention. Norms, activations, softmax and the merging itself are
not counted. :func:`cost_of` turns :class:`~illava.planning.counts.TokenCounts` into a :class:`Cost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..models.dimensions import EncoderDimensions, LlmDimensions, ResamplerDimensions
from .counts import TokenCounts


@dataclass(frozen=True)
class Cost:
    """FLOPs of the encoder, the projector and the prefill, and KV cache bytes after the prefill.

    The prefill includes the language-model head at one position.
    """

    encoder: int
    projector: int
    prefill: int
    kv_bytes: int
    blocks: tuple[int, ...] = ()
    """FLOPs of every encoder block. Together with the patch embedding they sum to ``encoder``."""
    layers: tuple[int, ...] = ()
    """FLOPs of every LLM layer. Together with the head they sum to ``prefill``."""
    layer_kv_bytes: tuple[int, ...] = ()
    """KV cache bytes of every LLM layer."""
    decode: int = 0
    """FLOPs of the first decoding step, over all rows."""
    peak_bytes: int = 0
    """Estimated peak memory of the activations, in bytes, for a forward pass without gradients."""

    @property
    def total(self) -> int:
        """FLOPs to the first token."""
        return self.encoder + self.projector + self.prefill


def cost_of(
    encoder: EncoderDimensions,
    llm: LlmDimensions,
    token_counts: TokenCounts,
    element_size: int,
) -> Cost:
    """The cost of a forward pass.

    Args:
        element_size: bytes per element of the KV cache and of the activations.
    """
    calls, prefill = token_counts.encoder, token_counts.prefill
    blocks = [0] * encoder.depth
    embedding = projector = peak = 0
    for call in calls:
        embedding += patch_embedding_flops(encoder, call.embedded)
        projector += projector_flops(encoder, call.projected)
        projector += sum(projector_flops(encoder, units) for units in call.tapped)
        if encoder.resampler is not None:
            projector += resampler_flops(encoder.resampler, call.projected, len(call.sequences[0]))
        pixels = call.embedded * encoder.patch_values
        for block, (segments, mlp_tokens) in enumerate(zip(call.sequences, call.mlp_tokens, strict=True)):
            blocks[block] += encoder_block_flops(encoder, segments, mlp_tokens)
            peak = max(peak, pixels + encoder_block_elements(encoder, sum(segments), mlp_tokens))
    # Held during the prefill: pixels, the output of the encoder, and features at the width of the LLM.
    resident = sum(
        call.embedded * encoder.patch_values
        + 2 * (call.mlp_tokens[-1] if call.mlp_tokens else 0) * encoder.hidden
        + 2 * call.projected * llm.hidden
        for call in calls
    )
    rows, layers = prefill.rows, list[int]()
    size = 2 * llm.kv_heads * llm.head_dim
    for tokens, attends, left in zip(prefill.tokens, prefill.attends, prefill.cached, strict=True):
        layers.append(
            rows * (llm_layer_flops(llm, tokens) if attends else recurrent_layer_flops(llm, tokens))
        )
        resident += rows * left * size
        peak = max(peak, resident + rows * llm_layer_elements(llm, tokens))
    kept = [rows * kv_bytes(llm, [left], element_size) for left in prefill.cached]
    decode = sum(
        rows * (llm_layer_flops(llm, 1, left + 1) if attends else recurrent_layer_flops(llm, 1))
        for left, attends in zip(prefill.cached, prefill.attends, strict=True)
    )
    return Cost(
        encoder=embedding + sum(blocks),
        projector=projector,
        prefill=sum(layers) + head_flops(llm, rows),
        kv_bytes=sum(kept),
        blocks=tuple(blocks),
        layers=tuple(layers),
        layer_kv_bytes=tuple(kept),
        decode=decode + head_flops(llm, rows),
        peak_bytes=peak * element_size,
    )


def encoder_block_flops(
    shape: EncoderDimensions, segments: Sequence[int], mlp_tokens: int | None = None
) -> int:
    """FLOPs of one encoder block.

    Args:
        segments: tokens of each attention sequence (image, tile, frame or window).
        mlp_tokens: tokens that enter the MLP, fewer than the sum of ``segments`` if the block merges.
    """
    tokens = sum(segments)
    mlp_tokens = tokens if mlp_tokens is None else mlp_tokens
    projections = round(2 * tokens * 2 * (1 + shape.kv_share) * shape.hidden**2)
    attention = 4 * shape.hidden * sum(n * n for n in segments)
    mlp = 2 * mlp_tokens * shape.mlp_matrices * shape.hidden * shape.intermediate
    return projections + attention + mlp


def patch_embedding_flops(shape: EncoderDimensions, tokens: int) -> int:
    """FLOPs of the embedding of ``tokens`` patches."""
    return 2 * tokens * shape.patch_values * shape.hidden


def projector_flops(shape: EncoderDimensions, features: int) -> int:
    """FLOPs of projecting ``features`` encoder units to the width of the LLM."""
    return 2 * features * sum(a * b for a, b in shape.projector)


def resampler_flops(shape: ResamplerDimensions, patches: int, pictures: int) -> int:
    """FLOPs of the queries of ``pictures`` that read ``patches`` in all, without projecting these."""
    queries = pictures * shape.queries
    keys = patches + (queries if shape.joined else 0)
    return 2 * queries * sum(a * b for a, b in shape.layers) + 4 * shape.queries * keys * shape.width


def encoder_block_elements(shape: EncoderDimensions, tokens: int, mlp_tokens: int) -> int:
    """Estimated number of elements held at once in an encoder block without gradients, pixels not included.

    These are the input of the block, the residual stream and its norm, and the larger of two sets: queries,
    keys and values with four temporaries of their size for rotary embeddings; or the input, intermediate and
    output of the activation.
    """
    attention = tokens * 10 * shape.hidden
    mlp = mlp_tokens * (3 * shape.hidden + 3 * shape.intermediate)
    return max(attention, mlp)


def llm_layer_elements(shape: LlmDimensions, tokens: int) -> int:
    """The same for an LLM layer, the KV cache not included."""
    width, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = tokens * (3 * shape.hidden + 4 * width + 4 * narrow)
    mlp = tokens * (3 * shape.hidden + 3 * shape.intermediate)
    return max(attention, mlp)


def llm_layer_flops(shape: LlmDimensions, tokens: int, keys: int | None = None) -> int:
    """FLOPs of one LLM layer on ``tokens`` new tokens and ``keys`` keys (default: as many as tokens)."""
    keys = tokens if keys is None else keys
    width = shape.heads * shape.head_dim
    queries = (2 if shape.gated else 1) * width
    projections = 2 * tokens * shape.hidden * (queries + width + 2 * shape.kv_heads * shape.head_dim)
    attention = 4 * tokens * keys * width
    return projections + attention + _mlp_flops(shape, tokens)


def _mlp_flops(shape: LlmDimensions, tokens: int) -> int:
    return round(2 * tokens * shape.hidden * (3 * shape.intermediate + shape.router))


def recurrent_layer_flops(shape: LlmDimensions, tokens: int) -> int:
    """FLOPs of one recurrent layer on ``tokens`` new tokens.

    For a single token, products with the state are not counted: they are elementwise operations, which
    ``torch.utils.flop_counter`` does not count either.
    """
    r = shape.recurrent
    assert r is not None
    keys, values = r.key_heads * r.key_dim, r.value_heads * r.value_dim
    mixed = 2 * keys + values
    projections = 2 * tokens * shape.hidden * (mixed + 2 * values + 2 * r.value_heads)
    if tokens == 1:
        # The convolution also reads its last inputs and computes one output that is not used.
        return projections + 2 * 2 * mixed * r.kernel + _mlp_flops(shape, 1)
    padded = -(-tokens // r.chunk) * r.chunk
    inside = r.chunk * (2 * r.key_dim + r.value_dim)
    across = 3 * r.key_dim * r.value_dim
    rule = 2 * padded * r.value_heads * (inside + across)
    convolution = 2 * mixed * r.kernel * (tokens + r.kernel - 1)
    return projections + convolution + rule + _mlp_flops(shape, tokens)


def head_flops(shape: LlmDimensions, positions: int = 1) -> int:
    """FLOPs of the language-model head; ``generate`` needs one position per sequence."""
    return 2 * positions * shape.hidden * shape.vocabulary


def kv_bytes(shape: LlmDimensions, tokens_per_layer: Sequence[int], element_size: int) -> int:
    """Bytes of the KV cache, given the number of tokens in the cache of each layer."""
    return sum(tokens_per_layer) * 2 * shape.kv_heads * shape.head_dim * element_size
