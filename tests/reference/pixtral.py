"""Pixtral as Mistral 3 uses it: pictures of any size, whose units are 2x2 squares of the grid of patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .step import Plan, attention, rotate
from .vision import Seen, merge_segments


def pixtral(model: nn.Module, values: dict[str, Tensor], plan: Plan) -> Seen:
    """One picture. Its patches stand in the order of units here: attention does not mind."""
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    rows, columns = (pixels // tower.patch_size // 2 for pixels in values["image_sizes"][0].tolist())
    places = [(y, x) for y in range(rows) for x in range(columns)]
    boxes = [(0, x / columns, y / rows, (x + 1) / columns, (y + 1) / rows) for y, x in places]
    inside = [(0, 0), (0, 1), (1, 0), (1, 1)]
    patches = [(2 * y + dy, 2 * x + dx) for y, x in places for dy, dx in inside]
    planes = tower.patch_conv(values["pixel_values"].double())[0]
    hidden = tower.ln_pre(torch.stack([planes[:, y, x] for y, x in patches]))

    # Of the speeds at which a head turns, every other one goes by the patch's row, the rest by its column.
    heads, width = tower.config.num_attention_heads, tower.config.head_dim
    theta = tower.config.rope_parameters["rope_theta"]
    speeds = [theta ** -(turn / width) for turn in range(0, width, 2)]
    angles = torch.tensor(
        [[y * s for s in speeds[0::2]] + [x * s for s in speeds[1::2]] for y, x in patches],
        dtype=torch.float64,
    ).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()

    alive = [True] * len(places)
    seen = Seen(hidden, alive, list(boxes))
    for number, layer in enumerate(tower.transformer.layers):
        attn = layer.attention
        normed = layer.attention_norm(hidden)
        parts = [linear(normed) for linear in (attn.q_proj, attn.k_proj, attn.v_proj)]
        query, key, value = (part.view(len(hidden), heads, width) for part in parts)
        living = torch.tensor(alive).repeat_interleave(4).expand(len(hidden), -1)
        mixed, weights = attention(rotate(query, cos, sin), rotate(key, cos, sin), value, living)
        hidden = hidden + attn.o_proj(mixed)
        if number in plan.encoder:
            before = sum(alive)
            merge_segments(hidden, weights, alive, [0] * len(alive), 4, plan.encoder[number], plan)
            seen.steps.append((before, [box for box, kept in zip(boxes, alive, strict=True) if kept]))
        hidden = hidden + layer.feed_forward(layer.ffn_norm(hidden))

    seen.features = torch.zeros(len(places), model.config.text_config.hidden_size, dtype=torch.float64)
    for unit, kept in enumerate(alive):
        if kept:
            # The merger reads channel by channel, and in each the four patches.
            square = projector.norm(hidden[4 * unit : 4 * unit + 4]).T.flatten()
            merged = projector.patch_merger.merging_layer(square)
            seen.features[unit] = projector.linear_2(projector.act(projector.linear_1(merged)))
    return seen
