"""The whole method at full length, to compare the library with.

Written from the description of the method and from the models' own code, on purpose with nothing of
the library in it: no token ever leaves a tensor, a flag says which still live, dead ones are masked
out of every attention. All arithmetic in float64.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .step import Plan, attention, merge, rotate
from .tiles import tiles
from .vision import Box, Seen, onevision, qwen

__all__ = ["Plan", "Run", "run"]


ENCODERS = {
    "llava_onevision": lambda *args: [onevision(*args)],
    "qwen2_vl": lambda *args: [qwen(*args)],
    "qwen2_5_vl": lambda *args: [qwen(*args)],
}


@dataclass
class Step:
    stage: str
    layer: int
    before: int
    after: int


@dataclass
class Run:
    logits: Tensor  # (tokens, vocabulary), of dead tokens too
    alive: list[bool]
    steps: list[Step]
    # A picture's boxes still there, after each step.
    kept: list[list[list[Box]]] = field(default_factory=list)


@torch.no_grad()
def run(model: nn.Module, ids: list[int], pictures: list[dict[str, Tensor]], plan: Plan, prompt: int) -> Run:
    """One row without padding; its first ``prompt`` ids are the prompt, the others were generated."""
    model = copy.deepcopy(model).double()
    encode = ENCODERS.get(model.config.model_type, tiles)
    seen = [part for values in pictures for part in encode(model, values, plan)]
    steps = [
        Step("encoder", layer, sum(s.steps[i][0] for s in seen), sum(len(s.steps[i][1]) for s in seen))
        for i, layer in enumerate(sorted(plan.encoder))
        if seen
    ]
    kept = [[boxes for _, boxes in s.steps] for s in seen]

    placeholders = {model.config.image_token_id, getattr(model.config, "video_token_id", None)}
    visual = [i for i in range(prompt) if ids[i] in placeholders]
    hidden = model.get_input_embeddings()(torch.tensor(ids))
    alive = [True] * len(ids)
    box_at: dict[int, tuple[int, Box | None]] = {}
    rows = iter(visual)
    for number, s in enumerate(seen):
        for feature, living, box in zip(s.features, s.alive, s.boxes, strict=True):
            row = next(rows)
            hidden[row], alive[row], box_at[row] = feature, living, (number, box)

    language = model.model.text_model if hasattr(model.model, "text_model") else model.model.language_model
    cos, sin = (t[0].double() for t in language.rotary_emb(hidden, _positions(model, ids, seen)))
    causal = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    weights: list[Tensor] = []
    for number, layer in enumerate(language.layers):
        if number in plan.llm and seen:
            before = sum(alive[i] for i in visual)
            for segment in _contiguous(visual):
                living = [i for i in segment if alive[i]]
                scores = [sum(float(head[prompt - 1, i]) for head in weights) / len(weights) for i in living]
                vectors = [hidden[i] for i in living]
                stay = merge(vectors, scores, plan.llm[number], plan)
                hidden = hidden.clone()  # the vectors above are views
                for i, token in enumerate(living):
                    alive[token] = i in stay
                    hidden[token] = vectors[i]
            steps.append(Step("llm", number, before, sum(alive[i] for i in visual)))
            for picture, lists in enumerate(kept):
                lists.append([b for i, (p, b) in box_at.items() if p == picture and b and alive[i]])
        attn = layer.self_attn
        normed = layer.input_layernorm(hidden)
        parts = [linear(normed) for linear in (attn.q_proj, attn.k_proj, attn.v_proj)]
        query, key, value = (part.view(len(ids), -1, attn.head_dim) for part in parts)
        allowed = causal & torch.tensor(alive)[None]
        mixed, weights = attention(rotate(query, cos, sin), rotate(key, cos, sin), value, allowed)
        hidden = hidden + attn.o_proj(mixed)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return Run(model.lm_head(language.norm(hidden)), alive, steps, kept)


def _contiguous(rows: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for row in rows:
        if runs and runs[-1][-1] == row - 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _positions(model: nn.Module, ids: list[int], seen: list[Seen]) -> Tensor:
    """Positions of the full prompt: 1-D, or time, height and width for the Qwen families."""
    if all(s.grid is None for s in seen):
        return torch.arange(len(ids))[None]
    placeholders = {model.config.image_token_id, model.config.video_token_id}
    positions: list[tuple[int, int, int]] = []
    pictures = iter(seen)
    following = 0
    while len(positions) < len(ids):
        if ids[len(positions)] not in placeholders:
            positions.append((following,) * 3)
            following += 1
            continue
        frames, rows, columns = next(pictures).grid
        positions += [
            (following + f, following + y, following + x)
            for f in range(frames)
            for y in range(rows)
            for x in range(columns)
        ]
        following += max(rows, columns)
    return torch.tensor(positions).T[:, None]
