"""The authors' scores, and an LLM that merges by them, written out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tests.core.loops import merge_loop
from tests.methods import whole
from tests.reference.llm import decode, rotations
from tests.reference.step import rotate


def log_sum(numbers: list[float]) -> float:
    highest = max(numbers, default=-math.inf)
    if highest == -math.inf:
        return highest
    return highest + math.log(sum(math.exp(number - highest) for number in numbers))


def own_rows(query: Tensor, key: Tensor, allowed: Tensor, scaling: float) -> list[float]:
    """(n, heads, width) each."""
    shared = query.shape[1] // key.shape[1]
    logits = torch.stack([query[:, h] @ key[:, h // shared].T * scaling for h in range(query.shape[1])])
    return logits.masked_fill(~allowed, -math.inf).exp().sum(2).log().mean(0).tolist()


def llm(
    model: nn.Module, made: whole.Prompt, alive: Tensor, runs: list[list[int]], steps: dict[int, float]
) -> Tensor:
    """Logits of what is left of a prompt, by the LLM at full length."""
    language, hidden = model.model.language_model, made.embeds
    causal = torch.ones(len(hidden), len(hidden), dtype=torch.bool).tril()
    rotary = rotations(language, hidden, made.positions[:, None])
    visual = [column for segment in made.segments for column in segment]
    before = hidden
    for number, layer in enumerate(language.layers):
        if number in steps:
            scores = causal_rows(language.layers[number - 1], before, rotary[number - 1], causal & alive)
            for own in runs:
                p = max(1, round(steps[number] * len(own)))
                rows, kept, _ = merge_loop(hidden[own], torch.tensor([scores[i] for i in own]), p, "recycle")
                hidden[[own[i] for i in kept]] = rows
                alive[own] = False
                alive[[own[i] for i in kept]] = True
        before = hidden
        hidden, _ = decode(layer, hidden, rotary[number], causal & alive)
        if number < len(made.taps):
            hidden[visual] += made.taps[number]
    return model.lm_head(language.norm(hidden))[alive]


def causal_rows(layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], allowed: Tensor) -> list[float]:
    attn, normed = layer.self_attn, layer.input_layernorm(hidden)
    query, key = (part(normed).view(len(hidden), -1, attn.head_dim) for part in (attn.q_proj, attn.k_proj))
    if hasattr(attn, "q_norm"):
        query, key = attn.q_norm(query), attn.k_norm(key)
    return own_rows(rotate(query, *rotary), rotate(key, *rotary), allowed, attn.head_dim**-0.5)
