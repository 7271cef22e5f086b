"""One declarative entry a kind of image encoder: what the encoder stage must know of its blocks.

Attribute paths are those of transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index


@dataclass(frozen=True)
class Tower:
    """How to find the parts of one kind of image encoder."""

    blocks: str
    """Path of the list of blocks from the encoder; the next three start at a block."""
    attention: str
    second_norm: str
    mlp: str
    packed: bool = False
    """All pictures in one sequence (Qwen), or a batch of equal tiles (LLaVA)."""
    masked: bool = False
    """Whether a packed encoder keeps its pictures apart by a mask, so that all attend to all of a call."""
    spatial: bool = False
    """Whether the tokens of a unit are a square of the picture's grid, or simply follow one another."""
    prefix: int = 0
    """Tokens before a tile's patches (class tokens): always kept, no candidates, but their queries count."""
    scale: Callable[[nn.Module, Tensor], Tensor] | None = None
    """Block and its MLP's output to what is added to the residual, where that is not the output itself."""
    grid: Callable[[Any, tuple[Any, ...], dict[str, Any]], Tensor] = lambda vision, args, kwargs: (
        kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
    )
    """Vision config and the encoder's arguments to (pictures, 3) frames, rows and columns, if packed."""
    full_attention_blocks: Callable[[Any], tuple[int, ...] | None] = lambda vision: None
    """Vision config to the encoder blocks without windows; None when no block has any."""
    windows: Callable[[Any, Tensor], tuple[int, ...] | None] = lambda vision, grid: None
    """Vision config and (images, 3) token grids to the tokens of each attention window, in blocks that have
    windows; None when no block has any."""
    unit_order: Callable[[Any, Tensor], Tensor | None] = lambda vision, grid: None
    """Vision config and (images, 3) token grids to (U,) the raster index of each unit; None: raster."""


def _window_order(vision: Any, grid: Tensor) -> Tensor:
    """Qwen2.5-VL sorts units by window, picture by picture."""
    index, _ = get_vision_window_index(
        grid, vision.spatial_merge_size, window_size=vision.window_size, patch_size=vision.patch_size
    )
    return index


def _window_lengths(vision: Any, grid: Tensor) -> tuple[int, ...]:
    _, boundaries = get_vision_window_index(
        grid, vision.spatial_merge_size, window_size=vision.window_size, patch_size=vision.patch_size
    )
    ends = torch.as_tensor(boundaries).unique_consecutive()
    return tuple(ends.diff().tolist())


def _pixtral_grid(vision: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    sizes = torch.as_tensor(kwargs["image_sizes"] if "image_sizes" in kwargs else args[1])
    return torch.cat([torch.ones_like(sizes[:, :1]), sizes // vision.patch_size], dim=1)


SIGLIP = Tower("encoder.layers", "self_attn", "layer_norm2", "mlp")
CLIP = Tower("encoder.layers", "self_attn", "layer_norm2", "mlp", prefix=1)
QWEN2_VL = Tower("blocks", "attn", "norm2", "mlp", packed=True)
QWEN2_5_VL = Tower(
    "blocks",
    "attn",
    "norm2",
    "mlp",
    packed=True,
    full_attention_blocks=lambda vision: tuple(vision.fullatt_block_indexes),
    windows=_window_lengths,
    unit_order=_window_order,
)
# Qwen3-VL, Qwen3.5 and GLM-4V name the parts of a block as Qwen2-VL does.
QWEN3_VL = GLM4V = QWEN2_VL
INTERNVL = Tower(
    "encoder.layer",
    "attention",
    "layernorm_after",
    "mlp",
    spatial=True,
    prefix=1,
    scale=lambda block, output: block.dropout(output) * (1 if block.lambda_2 is None else block.lambda_2),
)
SIGLIP_IN_SQUARES = Tower("encoder.layers", "self_attn", "layer_norm2", "mlp", spatial=True)
PIXTRAL = Tower(
    "transformer.layers",
    "attention",
    "ffn_norm",
    "feed_forward",
    packed=True,
    masked=True,
    spatial=True,
    grid=_pixtral_grid,
)
