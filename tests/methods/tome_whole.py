"""ToMe written out: an image encoder block by block in plain torch, with loops over units. In float64.

From the description of the method and the models' own code; nothing of the library is in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.core.loops import dot
from tests.reference.step import rotate


def counts_loop(n: int, target: int, steps: int) -> list[int]:
    """Units left after each step: the same number goes at each, the least that will do, while they last."""
    for r in range(n + 1):
        left = [n]
        for _ in range(steps):
            left.append(max(target, left[-1] - min(r, left[-1] // 2)))
        if left[-1] == target:
            break
    return left[1:]


class Step(NamedTuple):
    kept: list[int]
    """Where the first source of every survivor stood."""
    values: list[list[float]]
    sizes: list[float]


def merge_loop(units: list[list[float]], keys: list[list[float]], sizes: list[float], p: int) -> Step:
    """One segment down to p units."""
    n = len(units)

    def cosine(i: int, j: int) -> float:
        lengths = math.sqrt(dot(keys[i], keys[i]) * dot(keys[j], keys[j]))
        return dot(keys[i], keys[j]) / lengths if lengths else 0.0

    # max and sorted take the first of several.
    edges = []
    for even in range(0, n, 2):
        best = max(range(1, n, 2), key=lambda odd, even=even: cosine(even, odd))
        edges.append((even, best, cosine(even, best)))
    edges = sorted(edges, key=lambda edge: -edge[2])[: n - p]
    sources = {i: [i] for i in range(n)}
    for even, odd, _ in edges:
        sources[odd] += sources.pop(even)
    found = []
    for members in sources.values():
        size = sum(sizes[i] for i in members)
        mean = [sum(sizes[i] * units[i][d] for i in members) / size for d in range(len(units[0]))]
        found.append((min(members), mean, size))
    found.sort(key=lambda unit: unit[0])
    return Step(*(list(column) for column in zip(*found, strict=True)))


@dataclass
class Unit:
    """What is left of some units of a picture."""

    first: int
    """Index of its first source in its segment, in raster order."""
    tokens: Tensor
    """(g, d)."""
    window: Any
    """Only those of one window attend to one another, in blocks with windows."""
    size: float = 1.0


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, allowed: Tensor) -> Tensor:
    """(n, heads, width) each, (n,) what is added for each key, (n, n) who sees whom; (n, heads * width)."""
    out = []
    for head in range(query.shape[1]):
        products = query[:, head] @ key[:, head].T / math.sqrt(query.shape[2]) + bias
        out.append(products.masked_fill(~allowed, -math.inf).softmax(1) @ value[:, head])
    return torch.cat(out, 1)


def through(
    blocks: list[tuple[Any, bool]],
    units: list[Unit],
    prefix: Tensor,
    rotary: tuple[Tensor, Tensor] | None,
    merging: dict[int, int],
    proportional: bool,
) -> list[list[int]]:
    """Run one segment through the blocks, changing ``units``; returns who is left after every merge.

    Args:
        blocks: each with whether it has windows.
        prefix: (c, d) class tokens.
        rotary: cosines and sines (U, g, width) of each place, for encoders that rotate.
        merging: block to the units that are left behind it.
    """
    history = []
    g, c = len(units[0].tokens), len(prefix)
    for number, (block, windowed) in enumerate(blocks):
        packed = hasattr(block, "norm1")
        attn = block.attn if packed else block.self_attn
        norms = (block.norm1, block.norm2) if packed else (block.layer_norm1, block.layer_norm2)
        hidden = torch.cat([prefix, *(unit.tokens for unit in units)])
        normed = norms[0](hidden)
        if packed:
            query, key, value = attn.qkv(normed).view(len(hidden), 3, attn.num_heads, -1).unbind(1)
            cos, sin = (torch.cat([table[unit.first] for unit in units]) for table in rotary)
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        else:
            query, key, value = (
                linear(normed).view(len(hidden), attn.num_heads, -1)
                for linear in (attn.q_proj, attn.k_proj, attn.v_proj)
            )
        sizes = [1.0] * c + [unit.size for unit in units for _ in range(g)]
        bias = torch.tensor([math.log(size) if proportional else 0.0 for size in sizes]).double()
        marks = [unit.window for unit in units for _ in range(g)]
        allowed = torch.tensor([[not windowed or a == b for b in marks] for a in marks])
        allowed = torch.nn.functional.pad(allowed, (c, 0, c, 0), value=True)
        mixed = attend(query, key, value, bias, allowed)
        hidden = hidden + (attn.proj if packed else attn.out_proj)(mixed)
        prefix, rest = hidden[:c], hidden[c:].split(g)
        for unit, tokens in zip(units, rest, strict=True):
            unit.tokens = tokens
        if number in merging:
            if merging[number] < len(units):
                means = [part.mean(1).flatten().tolist() for part in key[c:].split(g)]
                vectors = [unit.tokens.flatten().tolist() for unit in units]
                step = merge_loop(vectors, means, [unit.size for unit in units], merging[number])
                left = [units[i] for i in step.kept]
                for unit, vector, size in zip(left, step.values, step.sizes, strict=True):
                    unit.tokens, unit.size = torch.tensor(vector).double().view(g, -1), size
                units[:] = left
            history.append([unit.first for unit in units])
        prefix = prefix + block.mlp(norms[1](prefix))
        for unit in units:
            unit.tokens = unit.tokens + block.mlp(norms[1](unit.tokens))
    return history


class Seen(NamedTuple):
    features: Tensor
    """(P, d) of the units that are left."""
    kept: list[int]
    """Their places among all units of the picture, in raster order."""
    history: list[list[int]]
    """The same after each step, in the order of the encoder's units."""


def llava(
    model: nn.Module, values: dict[str, Tensor], keep: float, layers: list[int], proportional: bool
) -> Seen:
    """LLaVA-1.5 with CLIP or SigLIP, one picture of 36 tokens."""
    tower = model.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    hidden = tower.embeddings(values["pixel_values"].double())[0]
    clip = hasattr(tower, "pre_layrnorm")
    if clip:
        hidden = tower.pre_layrnorm(hidden)
    blocks = list(tower.encoder.layers)[: -1 if clip else None]  # with CLIP it reads the last but one
    units = [Unit(i, token[None], None) for i, token in enumerate(hidden[int(clip) :])]
    counts = counts_loop(len(units), max(1, round(keep * len(units))), len(layers))
    merging = dict(zip(layers, counts, strict=True))
    plain = [(block, False) for block in blocks]
    history = through(plain, units, hidden[: int(clip)], None, merging, proportional)
    features = model.model.multi_modal_projector(torch.cat([unit.tokens for unit in units]))
    return Seen(features, history[-1], history)


def qwen(
    model: nn.Module, values: dict[str, Tensor], keep: float, layers: list[int], proportional: bool
) -> Seen:
    """Qwen2-VL and 2.5, one picture, whose units are the 2x2 patches of one merged token."""
    visual = model.model.visual
    rows, columns = (side // 2 for side in values["image_grid_thw"][0, 1:].tolist())
    places = [(y, x) for y in range(rows) for x in range(columns)]
    hidden = visual.patch_embed(values["pixel_values"].double())
    inside = [(0, 0), (0, 1), (1, 0), (1, 1)]
    patches = torch.tensor([(2 * y + dy, 2 * x + dx) for y, x in places for dy, dx in inside])
    # Half of a head's rotations turn with the patch's row, half with its column.
    quarter = visual.blocks[0].attn.qkv.in_features // visual.blocks[0].attn.num_heads // 4
    speeds = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.cat([patches[:, :1] * speeds, patches[:, 1:] * speeds], dim=1).repeat(1, 2)
    rotary = tuple(table.view(len(places), 4, -1) for table in (angles.cos(), angles.sin()))
    windows, full = [None] * len(places), range(len(visual.blocks))
    if model.config.model_type == "qwen2_5_vl":
        side, full = visual.window_size // visual.patch_size // 2, visual.fullatt_block_indexes
        windows = [(y // side, x // side) for y, x in places]
    units = [
        Unit(i, part, window) for i, (part, window) in enumerate(zip(hidden.split(4), windows, strict=True))
    ]
    if windows[0] is not None:
        units.sort(key=lambda unit: unit.window)
    order = [unit.first for unit in units]
    counts = counts_loop(len(units), max(1, round(keep * len(units))), len(layers))
    merging = dict(zip(layers, counts, strict=True))
    blocks = [(block, number not in full) for number, block in enumerate(visual.blocks)]
    history = through(blocks, units, hidden[:0], rotary, merging, proportional)
    units.sort(key=lambda unit: unit.first)
    features = torch.cat([visual.merger(unit.tokens) for unit in units])
    by_order = [[order.index(first) for first in left] for left in history]
    return Seen(features, [unit.first for unit in units], by_order)
