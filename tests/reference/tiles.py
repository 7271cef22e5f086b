"""Towers that see one tile at a time: class tokens, units that are squares of the grid, layer scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .step import Plan, attention, merge, received
from .vision import Box, Seen


def squares(side: int, edge: int) -> list[list[int]]:
    """The raster numbers of the tokens in each edge x edge square of a side x side grid."""
    return [
        [(y * edge + dy) * side + x * edge + dx for dy in range(edge) for dx in range(edge)]
        for y in range(side // edge)
        for x in range(side // edge)
    ]


def raster(side: int, frame: int = 0) -> list[Box]:
    """The boxes of a side x side grid over the whole picture."""
    places = [(y / side, x / side) for y in range(side) for x in range(side)]
    return [(frame, x, y, x + 1 / side, y + 1 / side) for y, x in places]


def tiles(model: nn.Module, values: dict[str, Tensor], plan: Plan) -> list[Seen]:
    """LLaVA-1.5, InternVL, Idefics3 and Gemma 3: what each tile of a picture becomes."""
    out = []
    for pixels in values["pixel_values"].double().flatten(0, -4):
        side = 6 if model.config.model_type in ("llava", "vipllava") else 3
        tokens, seen = tile(model, pixels, raster(side), plan)
        seen.features = torch.zeros(len(tokens), model.config.text_config.hidden_size, dtype=torch.float64)
        # What the model keeps in front of the patches: it takes the class token off, but never a register.
        whole = getattr(model.config, "vision_feature_select_strategy", "") == "full"
        front = seen.front[0 if whole else 1 :] if "llava" in model.config.model_type else []
        for unit, kept in enumerate(seen.alive):
            if kept:
                seen.features[unit] = _project(model.config.model_type, model.model, tokens[unit])
        if len(front):
            fixed = [_project(model.config.model_type, model.model, row[None]) for row in front]
            seen.features = torch.cat([torch.stack(fixed), seen.features])
            seen.alive, seen.boxes = [True] * len(front) + seen.alive, [None] * len(front) + seen.boxes
            seen.fixed = len(front)
        out.append(seen)
    return out


def tile(model: nn.Module, pixels: Tensor, boxes: list[Box], plan: Plan) -> tuple[Tensor, Seen]:
    """Encode one (3, height, width) tile, which stands alone.

    Returns its units as (U, g, d), and which of them are left; ``boxes`` is a box for each.
    """
    family, base, pixels = model.config.model_type, model.model, pixels[None]
    tower = base.vision_model if family == "idefics3" else base.vision_tower
    tower = getattr(tower, "vision_model", tower)
    if family == "idefics3":
        embedded = tower.embeddings(pixels, patch_attention_mask=torch.ones(1, 6, 6, dtype=torch.bool))
    else:
        embedded = tower.embeddings(pixels)
    hidden = (embedded[0] if isinstance(embedded, tuple) else embedded)[0]
    clip, dino = hasattr(tower, "pre_layrnorm"), "dinov2" in tower.config.model_type
    first = 1 if clip or dino or family == "internvl" else 0  # behind the class token
    if dino:
        first += getattr(tower.config, "num_register_tokens", 0)
    if clip:
        hidden = tower.pre_layrnorm(hidden)
    units = [[first + token for token in unit] for unit in squares(6, 1 if clip or dino else 2)]
    seen = Seen(hidden, [True] * len(units), list(boxes))
    layers = list(tower.encoder.layer if dino or family == "internvl" else tower.encoder.layers)
    if clip:
        layers = layers[:-1]  # the model reads the last but one
    for number, layer in enumerate(layers):
        hidden = _layer(layer, hidden, units, seen, number, plan)
    seen.front = hidden[:first]
    return torch.stack([hidden[tokens] for tokens in units]), seen


def _layer(layer: Any, hidden: Tensor, units: list[list[int]], seen: Seen, number: int, plan: Plan) -> Tensor:
    if hasattr(layer, "layer_scale1"):
        attn, last, norms = layer.attention, layer.attention.o_proj, (layer.norm1, layer.norm2)
        one, two, heads = layer.layer_scale1.lambda1, layer.layer_scale2.lambda1, attn.num_attention_heads
    elif hasattr(layer, "lambda_1"):
        attn, last = layer.attention, layer.attention.projection_layer
        norms, heads = (layer.layernorm_before, layer.layernorm_after), attn.num_heads
        one, two = layer.lambda_1, layer.lambda_2
    else:
        attn, last, norms = layer.self_attn, layer.self_attn.out_proj, (layer.layer_norm1, layer.layer_norm2)
        one, two, heads = 1, 1, attn.num_heads
    living = [True] * len(hidden)
    for unit, tokens in enumerate(units):
        for token in tokens:
            living[token] = seen.alive[unit]
    normed = norms[0](hidden)
    query, key, value = (
        linear(normed).view(len(hidden), heads, -1) for linear in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    mixed, weights = attention(query, key, value, torch.tensor(living).expand(len(hidden), -1))
    hidden = hidden + one * last(mixed)
    if number in plan.encoder:
        left = [u for u in range(len(units)) if seen.alive[u]]
        # The class token is no candidate, but what it looks at counts.
        queries = [token for token in range(len(hidden)) if living[token]]
        scores = [sum(received(weights, queries, t) for t in units[u]) / len(units[u]) for u in left]
        vectors = [torch.cat([hidden[t] for t in units[u]]) for u in left]
        stay = merge(vectors, scores, plan.encoder[number], plan)
        hidden = hidden.clone()
        for i, u in enumerate(left):
            seen.alive[u] = i in stay
            hidden[units[u]] = vectors[i].view(len(units[u]), -1)
        seen.steps.append(
            (len(left), [box for box, kept in zip(seen.boxes, seen.alive, strict=True) if kept])
        )
    return hidden + two * layer.mlp(norms[1](hidden))


def _project(family: str, base: Any, tokens: Tensor) -> Tensor:
    """(g, d) tokens of one unit to its feature."""
    if family in ("llava", "vipllava"):
        return base.multi_modal_projector(tokens)[0]
    if family == "internvl":
        return base.multi_modal_projector(base.vision_tower.layernorm(tokens).flatten()[None])[0]
    if family == "idefics3":
        return base.connector.modality_projection(base.vision_model.post_layernorm(tokens).flatten()[None])[0]
    tower = getattr(base.vision_tower, "vision_model", base.vision_tower)
    mean = sum(tower.post_layernorm(tokens)) / len(tokens)
    projector = base.multi_modal_projector
    return projector.mm_soft_emb_norm(mean) @ projector.mm_input_projection_weight
