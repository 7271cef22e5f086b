"""Smaller pictures for the image encoder, while the rest of the model uses the full size.

The input of packed encoders is a sequence of patches. The patches are reassembled to a picture, the picture
is resized, and its patches are encoded instead of the original ones. Encoders that take whole pictures of any
size (DINOv2) get smaller ones, for which they interpolate their position embeddings. Each feature of the
small picture takes the index of the full-size unit nearest to the centre of the area that it shows; the other
indices are marked as dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from ...models.located import LocatedModules
from ...models.processed import resizes_inside
from ...models.workload import first
from ...ops.grids import coarse_places, coarse_shape
from ...ops.transfers import upload


@dataclass(frozen=True)
class Resized:
    """The pictures of one encoder call that were resized."""

    full: Tensor
    """(pictures, 3) frames, rows and columns of the pictures at their full size."""
    places: Tensor
    """(P,) int64: for each unit of the small grids, the index of a unit of the full grids, in raster
    order."""


class ResizeStage:
    """Resizes the pictures in the arguments of an encoder that takes any size."""

    def __init__(self, modules: LocatedModules, keep: float) -> None:
        if not resizes_inside(modules):
            raise UnsupportedError(
                f"pictures of {modules.family.model_type} cannot be resized inside the model, which has a "
                "fixed picture size or merges patches outside its encoder; give smaller pictures"
            )
        self.modules, self.keep = modules, keep

    def shrink(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], Resized | None]:
        """The encoder's arguments with smaller pictures; the third value is None if no picture is resized."""
        vision, side = self.modules.config.vision_config, round(self.modules.group**0.5)
        grid = self.modules.tower.grid(vision, args, kwargs)
        small, places, first = [], [], 0
        sizes = grid.tolist()
        for frames, rows, columns in sizes:
            down, across = coarse_shape(rows // side, columns // side, self.keep)
            small.append([frames, down * side, across * side])
            kept = coarse_places(rows // side, columns // side, down, across)
            each = rows * columns // side**2
            places.append((first + each * torch.arange(frames)[:, None] + kept).flatten())
            first += frames * each
        if small == sizes:
            return args, kwargs, None
        resized = Resized(grid, torch.cat(places))
        shrunk = upload(small, grid.device, grid.dtype)
        name = next((name for name in ("hidden_states", "pixel_values") if name in kwargs), None)
        pixels = args[0] if name is None else kwargs[name]
        pixels = resize_patches(pixels, sizes, small, vision.patch_size, side, vision.temporal_patch_size)
        if name is None:
            args = (pixels, *args[1:])
        else:
            kwargs = {**kwargs, name: pixels}
        if "grid_thw" in kwargs:
            return args, {**kwargs, "grid_thw": shrunk}, resized
        return (args[0], shrunk, *args[2:]), kwargs, resized

    def shrink_whole(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], shape: tuple[int, int]
    ) -> tuple[tuple[Any, ...], dict[str, Any], Tensor | None]:
        """The same for an encoder of whole pictures, (B, channels, height, width).

        Args:
            shape: rows and columns of their patches.

        The third value has, for each unit of one small picture, the index of a unit of the full one: (P,)
        int64, in raster order.
        """
        (rows, columns), patch = shape, first(self.modules.config.vision_config.patch_size)
        down, across = coarse_shape(rows, columns, self.keep)
        if (down, across) == shape:
            return args, kwargs, None
        pixels = args[0] if args else kwargs["pixel_values"]
        # What is less than a patch at the end is not encoded.
        whole = pixels[..., : rows * patch, : columns * patch].float()
        small = nn.functional.interpolate(
            whole, (down * patch, across * patch), mode="bicubic", antialias=True
        ).to(pixels.dtype)
        places = coarse_places(rows, columns, down, across)
        if args:
            return (small, *args[1:]), kwargs, places
        return args, {**kwargs, "pixel_values": small}, places


def resize_patches(
    pixels: Tensor, grid: list[list[int]], small: list[list[int]], patch: int, side: int, temporal: int
) -> Tensor:
    """Resize pictures given as patches, by bicubic interpolation with antialiasing.

    Args:
        pixels: (N, channels * temporal * patch * patch) patches of all pictures. ``side`` x ``side``
            neighbours are consecutive, as in the output of the processors of Qwen-VL and GLM-4V.
        grid, small: frames, rows and columns of each picture in patches, before and after resizing.

    Returns (N', ...) patches in the same order and dtype.
    """
    out, first = [], 0
    for (frames, rows, columns), (_, down, across) in zip(grid, small, strict=True):
        count = frames * rows * columns
        patches = pixels[first : first + count].float()
        first += count
        block = patches.view(frames, rows // side, columns // side, side, side, -1, temporal, patch, patch)
        # frames, temporal, channels, rows, side, patch, columns, side, patch
        picture = block.permute(0, 6, 5, 1, 3, 7, 2, 4, 8).reshape(
            frames * temporal, -1, rows * patch, columns * patch
        )
        shrunk = nn.functional.interpolate(
            picture, (down * patch, across * patch), mode="bicubic", antialias=True
        )
        cut = shrunk.view(
            frames, temporal, -1, down // side, side, patch, across // side, side, patch
        ).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        out.append(cut.reshape(frames * down * across, -1))
    return torch.cat(out).to(pixels.dtype)
