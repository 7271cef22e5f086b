"""Kinds of image encoders: what the encoder stage needs to know about their blocks.

Attribute paths are those of transformers' own classes. Encoders that only one family uses are in its entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Tower:
    """Module paths of one kind of image encoder, and properties of its attention."""

    blocks: str
    """Path of the list of blocks, relative to the encoder; the next four are relative to a block."""
    attention: str
    second_norm: str
    mlp: str
    first_norm: str
    """The norm before the attention, whose input is that of the block."""
    packed: bool = False
    """Whether all pictures are packed into one sequence (Qwen-VL), instead of a batch of equal tiles
    (LLaVA)."""
    rotary: bool = True
    """Whether the blocks of a packed encoder get rotary tables."""
    masked: bool = False
    """Whether a packed encoder separates its pictures by a mask, so that one attention matrix covers all."""
    spatial: bool = False
    """Whether the tokens of a unit form a square of the picture's grid, instead of being consecutive."""
    prefix: Callable[[Any], int] = lambda vision: 0
    """Vision config to the number of tokens before a tile's patches (class and register tokens). They are
    always kept, but their queries count in scores."""
    scale: Callable[[nn.Module, Tensor], Tensor] | None = None
    """Block and output of its MLP to the value added to the residual. None: the output itself."""
    scale_modules: tuple[str, ...] = ()
    """Paths, relative to a block, of the modules that ``scale`` calls."""
    any_size: bool = False
    """Whether the encoder takes pictures of any size, because it interpolates its learnt positions. The
    processor then decides on the size, not the vision config."""
    grid: Callable[[Any, tuple[Any, ...], dict[str, Any]], Tensor] = lambda vision, args, kwargs: (
        kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
    )
    """For packed encoders: vision config and the encoder's arguments to (pictures, 3) frames, rows,
    columns."""
    full_attention_blocks: Callable[[Any], tuple[int, ...] | None] = lambda vision: None
    """Vision config to the encoder blocks without window attention; None if no block has windows."""
    windows: Callable[[Any, Tensor], tuple[int, ...] | None] = lambda vision, grid: None
    """Vision config and (images, 3) token grids to the number of tokens in each attention window; None if no
    block has windows."""
    unit_order: Callable[[Any, Tensor], Tensor | None] = lambda vision, grid: None
    """Vision config and (images, 3) token grids to (U,) the raster index of each unit; None if the units are
    in raster order."""


def _pixtral_grid(vision: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    sizes = torch.as_tensor(kwargs["image_sizes"] if "image_sizes" in kwargs else args[1])
    return torch.cat([torch.ones_like(sizes[:, :1]), sizes // vision.patch_size], dim=1)


def _layer_scale(block: Any, output: Tensor) -> Tensor:
    scaled: Tensor = block.drop_path(block.layer_scale2(output))
    return scaled


UNREAD = Tower("", "", "", "", "")
"""Of a family whose encoder illava does not read, since nothing can merge in it."""
SIGLIP = Tower("encoder.layers", "self_attn", "layer_norm2", "mlp", "layer_norm1")
CLIP = replace(SIGLIP, prefix=lambda vision: 1)
DINOV2 = Tower(
    "encoder.layer",
    "attention",
    "norm2",
    "mlp",
    "norm1",
    prefix=lambda vision: 1,
    scale=_layer_scale,
    scale_modules=("layer_scale2", "drop_path"),
    any_size=True,
)
DINOV2_WITH_REGISTERS = replace(DINOV2, prefix=lambda vision: 1 + vision.num_register_tokens)
QWEN_VL = Tower("blocks", "attn", "norm2", "mlp", "norm1", packed=True)
"""Qwen2-VL's encoder; the blocks of Qwen3-VL, Qwen3.5 and GLM-4V have the same module names."""
SIGLIP_IN_SQUARES = replace(SIGLIP, spatial=True)
PIXTRAL = Tower(
    "transformer.layers",
    "attention",
    "ffn_norm",
    "feed_forward",
    "attention_norm",
    packed=True,
    masked=True,
    spatial=True,
    grid=_pixtral_grid,
)
