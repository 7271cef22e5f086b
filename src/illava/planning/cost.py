"""What a pass through a vision-language model costs: FLOPs, key/value bytes and memory, from sizes alone.

Pure integer functions. A multiply-add counts as two operations; attention counts every query-key pair it
is handed, the masked half of causal attention included, as torch.utils.flop_counter does. Norms,
activations, softmax and the merging itself are left out. A *course* says how many tokens a stage works on,
layer by layer; :func:`cost_of` turns courses into a :class:`Cost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..models.dimensions import EncoderDimensions, LlmDimensions
from .counts import TokenCounts


@dataclass(frozen=True)
class Cost:
    """FLOPs of encoder, projector and prefill (with one position of the head), and KV bytes after prefill."""

    encoder: int
    projector: int
    prefill: int
    kv_bytes: int
    blocks: tuple[int, ...] = ()
    """FLOPs of every encoder block; with the patch embedding they make up ``encoder``."""
    layers: tuple[int, ...] = ()
    """FLOPs of every LLM layer; with the head they make up ``prefill``."""
    layer_kv_bytes: tuple[int, ...] = ()
    """KV bytes of every LLM layer."""
    decode: int = 0
    """FLOPs of the first new token that is fed back, over all rows."""
    peak_bytes: int = 0
    """Bytes of activations at the most expensive moment of a pass without gradients, estimated."""

    @property
    def total(self) -> int:
        """FLOPs up to the first token."""
        return self.encoder + self.projector + self.prefill


def cost_of(
    encoder: EncoderDimensions,
    llm: LlmDimensions,
    courses: TokenCounts,
    element_size: int,
) -> Cost:
    """What a prompt costs; ``element_size``: bytes of a number, in the cache and between layers."""
    calls, prefill = courses.encoder, courses.prefill
    blocks = [0] * encoder.depth
    embedding = projector = peak = 0
    for call in calls:
        embedding += patch_embedding_flops(encoder, call.embedded)
        projector += projector_flops(encoder, call.projected)
        projector += sum(projector_flops(encoder, units) for units in call.tapped)
        beside = call.embedded * encoder.patch_values
        for block, (segments, behind) in enumerate(zip(call.sequences, call.behind, strict=True)):
            blocks[block] += encoder_block_flops(encoder, segments, behind)
            peak = max(peak, beside + encoder_block_numbers(encoder, sum(segments), behind))
    # Beside the LLM's own: the picture, what the encoder gave, and what became of that.
    held = sum(
        call.embedded * encoder.patch_values
        + 2 * call.behind[-1] * encoder.hidden
        + 2 * call.projected * llm.hidden
        for call in calls
    )
    rows, layers = prefill.rows, list[int]()
    size = 2 * llm.kv_heads * llm.head_dim
    for tokens, attends, left in zip(prefill.tokens, prefill.attends, prefill.held, strict=True):
        layers.append(
            rows * (llm_layer_flops(llm, tokens) if attends else recurrent_layer_flops(llm, tokens))
        )
        held += rows * left * size
        peak = max(peak, held + rows * llm_layer_numbers(llm, tokens))
    kept = [rows * kv_bytes(llm, [left], element_size) for left in prefill.held]
    decode = sum(
        rows * (llm_layer_flops(llm, 1, left + 1) if attends else recurrent_layer_flops(llm, 1))
        for left, attends in zip(prefill.held, prefill.attends, strict=True)
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
        segments: tokens of each attention sequence (picture, tile, frame or window).
        mlp_tokens: tokens that reach the MLP, fewer than the sum of ``segments`` where the block merges.
    """
    tokens = sum(segments)
    mlp_tokens = tokens if mlp_tokens is None else mlp_tokens
    projections = 2 * tokens * 4 * shape.hidden**2
    attention = 4 * shape.hidden * sum(n * n for n in segments)
    mlp = 2 * mlp_tokens * shape.mlp_matrices * shape.hidden * shape.intermediate
    return projections + attention + mlp


def patch_embedding_flops(shape: EncoderDimensions, tokens: int) -> int:
    """FLOPs of turning ``tokens`` patches into embeddings."""
    return 2 * tokens * shape.patch_values * shape.hidden


def projector_flops(shape: EncoderDimensions, features: int) -> int:
    """FLOPs of projecting ``features`` encoder units into the LLM's width."""
    return 2 * features * sum(a * b for a, b in shape.projector)


def encoder_block_numbers(shape: EncoderDimensions, tokens: int, behind: int) -> int:
    """Numbers held at once in an encoder block without gradients, estimated; the picture's own left out.

    What entered the block, the residual stream and its norm, beside either queries, keys and values and four
    more of their size while they are rotated, or what goes into, through and out of the activation.
    """
    attention = tokens * 10 * shape.hidden
    mlp = behind * (3 * shape.hidden + 3 * shape.intermediate)
    return max(attention, mlp)


def llm_layer_numbers(shape: LlmDimensions, tokens: int) -> int:
    """Likewise of a decoder layer, the cache left out."""
    width, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = tokens * (3 * shape.hidden + 4 * width + 4 * narrow)
    mlp = tokens * (3 * shape.hidden + 3 * shape.intermediate)
    return max(attention, mlp)


def llm_layer_flops(shape: LlmDimensions, tokens: int, keys: int | None = None) -> int:
    """FLOPs of one decoder layer on ``tokens`` new tokens and ``keys`` keys (default: those tokens)."""
    keys = tokens if keys is None else keys
    width = shape.heads * shape.head_dim
    queries = (2 if shape.gated else 1) * width
    projections = 2 * tokens * shape.hidden * (queries + width + 2 * shape.kv_heads * shape.head_dim)
    attention = 4 * tokens * keys * width
    return projections + attention + _mlp_flops(shape, tokens)


def _mlp_flops(shape: LlmDimensions, tokens: int) -> int:
    return round(2 * tokens * shape.hidden * (3 * shape.intermediate + shape.router))


def recurrent_layer_flops(shape: LlmDimensions, tokens: int) -> int:
    """FLOPs of one recurrent layer on ``tokens`` new tokens, of one of which products with its state are none
    that torch counts: they are done number by number.
    """
    r = shape.recurrent
    assert r is not None
    keys, values = r.key_heads * r.key_dim, r.value_heads * r.value_dim
    mixed = 2 * keys + values
    projections = 2 * tokens * shape.hidden * (mixed + 2 * values + 2 * r.value_heads)
    if tokens == 1:
        # The convolution goes over what it saw last, and makes one output too many.
        return projections + 2 * 2 * mixed * r.kernel + _mlp_flops(shape, 1)
    padded = -(-tokens // r.chunk) * r.chunk
    inside = r.chunk * (2 * r.key_dim + r.value_dim)
    across = 3 * r.key_dim * r.value_dim
    rule = 2 * padded * r.value_heads * (inside + across)
    convolution = 2 * mixed * r.kernel * (tokens + r.kernel - 1)
    return projections + convolution + rule + _mlp_flops(shape, tokens)


def head_flops(shape: LlmDimensions, positions: int = 1) -> int:
    """FLOPs of the language-model head; ``generate`` asks for one position a sequence."""
    return 2 * positions * shape.hidden * shape.vocabulary


def kv_bytes(shape: LlmDimensions, tokens_per_layer: Sequence[int], element_size: int) -> int:
    """Bytes of keys and values held after prefill, given the tokens each layer holds."""
    return sum(tokens_per_layer) * 2 * shape.kv_heads * shape.head_dim * element_size
