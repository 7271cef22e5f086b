"""Resamplers in loops: every query reads the patches that it is given, one after the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def read(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """(H, Q, h) queries over (K, n, h) keys and values to (Q, H * h); H is a multiple of K."""
    heads, count, size = query.shape
    shared = heads // key.shape[0]
    out = torch.zeros(count, heads, size)
    for head in range(heads):
        for q in range(count):
            logits = [float(query[head, q] @ k) * scale for k in key[head // shared]]
            top = max(logits)
            shares = [math.exp(logit - top) for logit in logits]
            for share, row in zip(shares, value[head // shared], strict=True):
                out[q, head] += share / sum(shares) * row
    return out.flatten(1)


def heads_of(rows: Tensor, count: int) -> Tensor:
    """(n, H * h) to (H, n, h)."""
    return rows.unflatten(-1, (count, -1)).transpose(0, 1)


def idefics2(connector: nn.Module, patches: Tensor) -> Tensor:
    """(n, d) patches of a picture to (queries, width)."""
    context, reader = connector.modality_projection(patches), connector.perceiver_resampler
    latents = reader.latents
    for layer in reader.layers:
        attention, own = layer.self_attn, layer.input_latents_norm(latents)
        keys = torch.cat([layer.input_context_norm(context), own])
        seen = read(
            heads_of(attention.q_proj(own), attention.num_heads),
            heads_of(attention.k_proj(keys), attention.num_key_value_heads),
            heads_of(attention.v_proj(keys), attention.num_key_value_heads),
            attention.head_dim**-0.5,
        )
        latents = latents + attention.o_proj(seen)
        latents = latents + layer.mlp(layer.post_attention_layernorm(latents))
    out: Tensor = reader.norm(latents)
    return out


def aria(projector: nn.Module, patches: Tensor, queries: int) -> Tensor:
    """The same; the number of queries follows from the patches of the whole picture."""
    crossing = projector.cross_attn
    inner = crossing.multihead_attn
    query = crossing.q_proj(crossing.layer_norm(projector.query[:queries]))
    given = crossing.layer_norm_kv(patches)
    rows = query, crossing.k_proj(given), crossing.v_proj(given)
    weights, biases = inner.in_proj_weight.chunk(3), inner.in_proj_bias.chunk(3)
    projected = [row @ weight.T + bias for row, weight, bias in zip(rows, weights, biases, strict=True)]
    split = [heads_of(row, inner.num_heads) for row in projected]
    seen = crossing.linear(inner.out_proj(read(*split, scale=inner.head_dim**-0.5)))
    out: Tensor = projector.feed_forward(projector.layer_norm(seen))
    return out
