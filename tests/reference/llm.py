"""A language model at full length: one layer, what its tokens may look at, and where they stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .step import attention, rotate


def apart(rows: list[int]) -> list[list[int]]:
    """Ascending numbers, cut wherever one is left out."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and runs[-1][-1] == row - 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def decode(
    layer: Any,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    allowed: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """One decoder layer: (tokens, d) to the same, and each head's attention weights."""
    attn = layer.self_attn
    normed = layer.input_layernorm(hidden)
    parts = [linear(normed) for linear in (attn.q_proj, attn.k_proj, attn.v_proj)]
    query, key, value = (part.view(len(hidden), -1, attn.head_dim) for part in parts)
    if hasattr(attn, "q_norm"):
        query, key = attn.q_norm(query), attn.k_norm(key)
    # Gemma has a width of its own to scale by.
    scaled = getattr(attn.config, "query_pre_attn_scalar", attn.head_dim)
    query = query * (attn.head_dim / scaled) ** 0.5
    mixed, weights = attention(rotate(query, *rotary), rotate(key, *rotary), value, allowed, bias)
    mixed = attn.o_proj(mixed)
    if hasattr(layer, "pre_feedforward_layernorm"):
        # Gemma also norms what each half of the layer adds.
        hidden = hidden + layer.post_attention_layernorm(mixed)
        added = layer.mlp(layer.pre_feedforward_layernorm(hidden))
        return hidden + layer.post_feedforward_layernorm(added), weights
    hidden = hidden + mixed
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden)), weights


def sights(model: nn.Module, length: int, pictures: list[list[int]]) -> list[Tensor]:
    """For every layer the (queries, keys) that may see one another as long as both live.

    ``pictures``: the columns of each run of placeholders.
    """
    config = model.config.text_config
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    if model.config.model_type != "gemma3":
        return [causal] * config.num_hidden_layers
    whole = causal.clone()
    for columns in pictures:
        for query in columns:
            whole[query, columns] = True
    # Columns are those of the full prompt, whoever of them is still there.
    near = torch.ones(length, length, dtype=torch.bool).triu(1 - config.sliding_window)
    return [whole & near if kind == "sliding_attention" else whole for kind in config.layer_types]


def rotations(language: Any, hidden: Tensor, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cosines and sines, (tokens, width), of every layer."""

    def of(*kind: str) -> tuple[Tensor, Tensor]:
        cos, sin = language.rotary_emb(hidden, positions, *kind)
        return cos[0].double(), sin[0].double()

    if "gemma3" in language.config.model_type:
        return [of(kind) for kind in language.config.layer_types]
    return [of()] * len(language.layers)


def positions(model: nn.Module, ids: list[int], grids: list[tuple[int, int, int]]) -> Tensor:
    """Positions of the full prompt: 1-D, or time, height and width for the Qwen families.

    ``grids``: frames, rows and columns of each run of placeholders that is placed as a grid.
    """
    if not grids:
        return torch.arange(len(ids))[None]
    placeholders = {model.config.image_token_id, model.config.video_token_id}
    out: list[tuple[int, int, int]] = []
    following, left = 0, iter(grids)
    while len(out) < len(ids):
        if ids[len(out)] not in placeholders:
            out.append((following,) * 3)
            following += 1
            continue
        frames, rows, columns = next(left)
        out += [
            (following + f, following + y, following + x)
            for f in range(frames)
            for y in range(rows)
            for x in range(columns)
        ]
        following += max(rows, columns)
    return torch.tensor(out).T[:, None]
