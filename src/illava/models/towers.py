"""Kinds of image encoders: what the encoder stage must know of their blocks, and those of several families.

Attribute paths are those of transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Tower:
    """Where the modules of one kind of image encoder are, and how it attends."""

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


def _pixtral_grid(vision: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    sizes = torch.as_tensor(kwargs["image_sizes"] if "image_sizes" in kwargs else args[1])
    return torch.cat([torch.ones_like(sizes[:, :1]), sizes // vision.patch_size], dim=1)


SIGLIP = Tower("encoder.layers", "self_attn", "layer_norm2", "mlp")
CLIP = Tower("encoder.layers", "self_attn", "layer_norm2", "mlp", prefix=1)
QWEN_VL = Tower("blocks", "attn", "norm2", "mlp", packed=True)
"""Of Qwen2-VL; Qwen3-VL, Qwen3.5 and GLM-4V name the modules of a block alike."""
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
