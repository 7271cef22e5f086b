"""Smaller pictures for the image encoder: the model is told of the full size, the encoder sees less of it.

Packed encoders take a picture as rows of patches. These are put together to a picture again, that is
resized, and its patches go through the encoder in place of the first ones. The features of the small picture
then stand at the places of the full one nearest the centres of what they show; other places are marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from ...models.located import LocatedModules
from ...ops.grids import coarse_places, coarse_shape


@dataclass(frozen=True)
class Resized:
    """What a call of the encoder saw of pictures that were made smaller."""

    full: Tensor
    """(pictures, 3) the grid of the pictures as the model was handed them."""
    places: Tensor
    """(P,) int64: the units of the full grid, in raster order, that stand for those of the small one."""


class ResizeStage:
    """Makes the pictures smaller that a packed encoder is called with."""

    def __init__(self, modules: LocatedModules, keep: float) -> None:
        if not modules.tower.packed or not modules.family.projector.startswith(f"{modules.family.encoder}."):
            raise UnsupportedError(
                f"pictures of {modules.family.model_type} cannot be made smaller inside the model, which "
                "takes them at one size or folds them up outside its encoder; hand the processor smaller ones"
            )
        self.modules, self.keep = modules, keep

    def shrink(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], Resized | None]:
        """The encoder's arguments with smaller pictures; None at the end where none is made smaller."""
        vision, side = self.modules.config.vision_config, round(self.modules.group**0.5)
        grid = self.modules.tower.grid(vision, args, kwargs)
        small, places, first = [], [], 0
        for frames, rows, columns in grid.tolist():
            down, across = coarse_shape(rows // side, columns // side, self.keep)
            small.append([frames, down * side, across * side])
            kept = coarse_places(rows // side, columns // side, down, across)
            each = rows * columns // side**2
            places.append((first + each * torch.arange(frames)[:, None] + kept).flatten())
            first += frames * each
        if small == grid.tolist():
            return args, kwargs, None
        resized = Resized(grid, torch.cat(places))
        shrunk = torch.tensor(small, device=grid.device, dtype=grid.dtype)
        name = next((name for name in ("hidden_states", "pixel_values") if name in kwargs), None)
        pixels = args[0] if name is None else kwargs[name]
        pixels = resize_patches(pixels, grid, shrunk, vision.patch_size, side, vision.temporal_patch_size)
        if name is None:
            args = (pixels, *args[1:])
        else:
            kwargs = {**kwargs, name: pixels}
        if "grid_thw" in kwargs:
            return args, {**kwargs, "grid_thw": shrunk}, resized
        return (args[0], shrunk, *args[2:]), kwargs, resized


def resize_patches(
    pixels: Tensor, grid: Tensor, small: Tensor, patch: int, side: int, temporal: int
) -> Tensor:
    """Resize pictures that are given as patches, bicubic with antialiasing.

    Args:
        pixels: (N, channels * temporal * patch * patch) patches of all pictures, ``side`` x ``side``
            neighbours one after the other, as the processors of Qwen-VL and GLM-4V put them.
        grid, small: (pictures, 3) frames, rows and columns in patches, before and after.

    Returns (N', ...) patches in the same order and dtype.
    """
    out, first = [], 0
    for (frames, rows, columns), (_, down, across) in zip(grid.tolist(), small.tolist(), strict=True):
        count = frames * rows * columns
        some = pixels[first : first + count].float()
        first += count
        block = some.view(frames, rows // side, columns // side, side, side, -1, temporal, patch, patch)
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
