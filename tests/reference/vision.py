"""Image encoders at full length: every token stays in the tensors, dead ones are never attended to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.image_processing_utils import select_best_resolution

from .step import Plan, attention, merge, received, rotate

Box = tuple[float, ...]


@dataclass
class Seen:
    """A picture as the LLM gets it: a row for each placeholder of the full prompt."""

    features: Tensor
    alive: list[bool]
    # None where a placeholder stands for no part of the picture (OneVision's line ends).
    boxes: list[Box | None]
    # Frames, rows and columns of each run of placeholders, for models that place them as a grid.
    grids: list[tuple[int, int, int]] = field(default_factory=list)
    # After each merge step in the encoder: units before, and the boxes of those that stayed.
    steps: list[tuple[int, list[Box]]] = field(default_factory=list)
    # What the LLM's first layers add to their outputs, each with a row for every placeholder.
    taps: list[Tensor] = field(default_factory=list)
    # Rows at its start that are class tokens and registers, which nothing ever drops.
    fixed: int = 0
    # The encoder's own tokens in front of its patches.
    front: Tensor = field(default_factory=lambda: torch.empty(0))
    video: bool = False


def merge_segments(
    hidden: Tensor,
    weights: list[Tensor],
    alive: list[bool],
    segments: list[int],
    size: int,
    keep: float,
    plan: Plan,
) -> None:
    """Merge units of ``size`` tokens in each segment; changes ``hidden`` and ``alive``, a flag a unit."""
    for segment in sorted(set(segments)):
        units = [u for u in range(len(alive)) if alive[u] and segments[u] == segment]
        tokens = {u: list(range(u * size, (u + 1) * size)) for u in units}
        queries = [t for u in units for t in tokens[u]]
        scores = [sum(received(weights, queries, t) for t in tokens[u]) / size for u in units]
        vectors = [torch.cat([hidden[t] for t in tokens[u]]) for u in units]
        stay = merge(vectors, scores, keep, plan)
        for i, unit in enumerate(units):
            alive[unit] = i in stay
            hidden[tokens[unit]] = vectors[i].view(size, -1)


def same(labels: list[int]) -> Tensor:
    return torch.tensor(labels)[:, None] == torch.tensor(labels)[None]


def qwen(model: nn.Module, values: dict[str, Tensor], plan: Plan) -> Seen:
    """Qwen2-VL, 2.5 and 3, one picture or video. A unit is the 2x2 patches of one merged token."""
    visual = model.model.visual
    video = "pixel_values_videos" in values
    pixels = values["pixel_values_videos" if video else "pixel_values"]
    grid = values["video_grid_thw" if video else "image_grid_thw"][0]
    frames, rows, columns = grid[0].item(), grid[1].item() // 2, grid[2].item() // 2
    places = [(f, y, x) for f in range(frames) for y in range(rows) for x in range(columns)]
    boxes = [(f, x / columns, y / rows, (x + 1) / columns, (y + 1) / rows) for f, y, x in places]

    hidden = visual.patch_embed(pixels.double())
    inside = [(0, 0), (0, 1), (1, 0), (1, 1)]
    positions = torch.tensor([(2 * y + dy, 2 * x + dx) for _, y, x in places for dy, dx in inside])
    if model.config.model_type == "qwen3_vl":
        hidden = hidden + _learned(visual, positions.tolist(), 2 * rows, 2 * columns)
    # Half of a head's rotations turn with the patch's row, half with its column.
    quarter = visual.blocks[0].attn.qkv.in_features // visual.blocks[0].attn.num_heads // 4
    speeds = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.cat([positions[:, :1] * speeds, positions[:, 1:] * speeds], dim=1).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()

    frame_of = [f for f, _, _ in places]
    windows = None
    if model.config.model_type == "qwen2_5_vl":
        side = visual.window_size // visual.patch_size // 2
        corners = [(f, y // side, x // side) for f, y, x in places]
        windows = [corners.index(corner) for corner in corners]
    alive = [True] * len(places)
    seen = Seen(hidden, alive, boxes, [(frames, rows, columns)], video=video)
    tapped = getattr(visual, "deepstack_visual_indexes", [])
    if model.config.model_type == "qwen3_vl":
        seen.grids = [(1, rows, columns)] * frames  # each behind its time
    for number, block in enumerate(visual.blocks):
        full = windows is None or number in visual.fullatt_block_indexes
        living = torch.tensor(alive)
        allowed = same(frame_of if full else windows) & living[None]
        allowed = allowed.repeat_interleave(4, 0).repeat_interleave(4, 1)
        heads = block.attn.num_heads
        qkv = block.attn.qkv(block.norm1(hidden)).view(len(hidden), 3, heads, -1)
        query, key = rotate(qkv[:, 0], cos, sin), rotate(qkv[:, 1], cos, sin)
        mixed, weights = attention(query, key, qkv[:, 2], allowed)
        hidden = hidden + block.attn.proj(mixed)
        if number in plan.encoder:
            before = sum(alive)
            merge_segments(hidden, weights, alive, frame_of, 4, plan.encoder[number], plan)
            seen.steps.append((before, [box for box, kept in zip(boxes, alive, strict=True) if kept]))
        hidden = hidden + block.mlp(block.norm2(hidden))
        if number in tapped:
            # Of all units, also of those that go later: nobody will ask for theirs.
            merger = visual.deepstack_merger_list[tapped.index(number)]
            seen.taps.append(torch.stack([merger(four)[0] for four in hidden.split(4)]))

    seen.features = torch.zeros(len(places), model.config.text_config.hidden_size, dtype=torch.float64)
    for unit, kept in enumerate(alive):
        if kept:
            seen.features[unit] = visual.merger(hidden[4 * unit : 4 * unit + 4])[0]
    return seen


def _learned(visual: Any, positions: list[tuple[int, int]], high: int, wide: int) -> Tensor:
    """Qwen3-VL's learned positions: a square table, stretched over the picture from corner to corner."""
    side = visual.num_grid_per_side
    table = visual.pos_embed.weight.view(side, side, -1)
    out = []
    for row, column in positions:
        y, x = row * (side - 1) / (high - 1), column * (side - 1) / (wide - 1)
        top, left = min(int(y), side - 2), min(int(x), side - 2)
        down, across = y - top, x - left
        upper, lower = (
            (1 - across) * table[line, left] + across * table[line, left + 1] for line in (top, top + 1)
        )
        out.append((1 - down) * upper + down * lower)
    return torch.stack(out)


def onevision(model: nn.Module, values: dict[str, Tensor], plan: Plan) -> Seen:
    """LLaVA-OneVision, one picture: an overview tile, then tiles of the picture in full size."""
    tower = model.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    pixels = values["pixel_values"][0].double()
    side = tower.config.image_size // tower.config.patch_size
    hidden = tower.embeddings(pixels).flatten(0, 1)
    tile_of = [t for t in range(len(pixels)) for _ in range(side * side)]
    boxes, layout = arrange(values["image_sizes"][0].tolist(), len(pixels), side, model.config)
    alive = [True] * len(hidden)
    steps = []
    for number, layer in enumerate(tower.encoder.layers):
        attn = layer.self_attn
        normed = layer.layer_norm1(hidden)
        parts = [linear(normed) for linear in (attn.q_proj, attn.k_proj, attn.v_proj)]
        query, key, value = (part.view(len(hidden), attn.num_heads, -1) for part in parts)
        mixed, weights = attention(query, key, value, same(tile_of) & torch.tensor(alive)[None])
        hidden = hidden + attn.out_proj(mixed)
        if number in plan.encoder:
            before = sum(alive)
            merge_segments(hidden, weights, alive, tile_of, 1, plan.encoder[number], plan)
            steps.append((before, [box for box, kept in zip(boxes, alive, strict=True) if kept]))
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))

    line_end = model.model.image_newline
    features = [line_end if t is None else model.model.multi_modal_projector(hidden[t]) for t in layout]
    return Seen(
        torch.stack(features),
        [t is None or alive[t] for t in layout],
        [None if t is None else boxes[t] for t in layout],
        steps=steps,
    )


def arrange(
    size: list[int], count: int, side: int, config: PretrainedConfig
) -> tuple[list[Box], list[int | None]]:
    """Boxes of all tiles' tokens, and which token each placeholder stands for (None: a line end)."""
    inner = [(y, x) for y in range(side) for x in range(side)]
    boxes: list[Box] = [(0, x / side, y / side, (x + 1) / side, (y + 1) / side) for y, x in inner]
    canvas = select_best_resolution(size, config.image_grid_pinpoints)
    down, across = (pixels // config.vision_config.image_size for pixels in canvas)
    assert count == 1 + down * across
    rows, columns = down * side, across * side
    # The picture lies centred on the canvas with its sides' ratio; what it leaves is padding.
    scale = min(rows / size[0], columns / size[1])
    high, wide = size[0] * scale, size[1] * scale
    top, left = (rows - high) / 2, (columns - wide) / 2
    number = {}
    for tile in range(down * across):
        for dy, dx in inner:
            y, x = tile // across * side + dy, tile % across * side + dx
            number[y, x] = len(boxes)
            boxes.append(
                (0, (x - left) / wide, (y - top) / high, (x + 1 - left) / wide, (y + 1 - top) / high)
            )
    # The model cuts the padding off in whole tokens, the same number on both sides, rounded down.
    cut_y, cut_x = (rows - int(round(high, 7))) // 2, (columns - int(round(wide, 7))) // 2
    layout: list[int | None] = list(range(side * side))
    for y in range(cut_y, rows - cut_y):
        layout += [number[y, x] for x in range(cut_x, columns - cut_x)]
        layout.append(None)
    return boxes, layout
