"""Saliency of a patch from its pixels, without any model: entropy of its grey levels, and edges.

From "ERASE", arXiv 2605.09982. Values are pixel values as the processor normalises them: scaling the grey
levels of each picture to its own range makes the cues independent of that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .precision import full_precision

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""
LEVELS = 256
EDGE = 1 - 0.45
"""An edge is a gradient larger than this share of the picture's median grey level."""


@full_precision
def pixel_cues(patches: Tensor, lengths: Sequence[int]) -> Tensor:
    """Entropy plus share of edges of each patch.

    The grey levels of a picture are scaled to whole numbers from 0, its darkest, to 255, its brightest. The
    entropy is that of the patch's histogram of 256 bins, divided by the largest possible one. The gradient is
    Sobel's after a 3 x 3 mean; both repeat the border of the patch.

    Args:
        patches: (N, channels, frames, height, width) normalised pixel values, any floating dtype; three
            channels are red, green and blue, of others the mean is taken.
        lengths: number of patches of each picture, summing to N.

    Returns (N,) fp32 in [0, 2]; zeros for pictures of one colour.
    """
    grey = [_grey_levels(picture) for picture in torch.split(patches.detach().float(), list(lengths))]
    edges = [_edge_share(levels) for levels in grey]
    return _entropy(torch.cat(grey).flatten(1)) + torch.cat(edges)


@full_precision
def pixel_complexity(patches: Tensor, lengths: Sequence[int]) -> Tensor:
    """The complexity of each picture: the median over its patches of the entropy of :func:`pixel_cues`.

    Args:
        patches, lengths: as for :func:`pixel_cues`, with at least one patch in each picture.

    Returns (S,) fp32 in [0, 1]; of an even number of patches the lower median.
    """
    pictures = torch.split(patches.detach().float(), list(lengths))
    return torch.stack([_entropy(_grey_levels(picture).flatten(1)).median() for picture in pictures])


def _grey_levels(patches: Tensor) -> Tensor:
    """(N, C, F, h, w) of one picture to (N, F, h, w) whole numbers from 0 to 255."""
    if patches.shape[1] == len(LUMA):
        grey = sum(weight * patches[:, channel] for channel, weight in enumerate(LUMA))
        assert isinstance(grey, Tensor)
    else:
        grey = patches.mean(1)
    if not len(grey):
        return grey
    low, high = grey.aminmax()
    scale = (LEVELS - 1) / (high - low).clamp(min=torch.finfo(grey.dtype).tiny)
    return ((grey - low) * scale).round()


def _entropy(levels: Tensor) -> Tensor:
    """(N, pixels) grey levels to (N,) entropies of their histograms, in [0, 1]."""
    pixels = levels.shape[1]
    # NaN, which no picture has, must not become an index.
    bins = levels.nan_to_num().long().clamp_(0, LEVELS - 1)
    share = torch.zeros(len(levels), LEVELS, dtype=torch.float32, device=levels.device)
    share.scatter_add_(1, bins, torch.ones_like(levels)).div_(pixels)
    entropy: Tensor = torch.special.entr(share).sum(1)
    return entropy / max(1.0, math.log(min(pixels, LEVELS)))


def _edge_share(levels: Tensor) -> Tensor:
    """(N, F, h, w) of one picture to (N,): the share of pixels with edges."""
    if not len(levels):
        return levels.flatten(1).sum(1)
    low_pass = _bordered(torch.nn.functional.avg_pool2d(_bordered(levels.flatten(0, 1)), 3, 1))
    # Not a convolution, which graphics cards compute in TF32.
    down = low_pass[:, :-2] + 2 * low_pass[:, 1:-1] + low_pass[:, 2:]
    across = low_pass[..., :-2] + 2 * low_pass[..., 1:-1] + low_pass[..., 2:]
    gradient = torch.hypot(down[..., 2:] - down[..., :-2], across[:, 2:] - across[:, :-2])
    edges: Tensor = gradient > EDGE * levels.median()
    return edges.view(len(levels), -1).float().mean(1)


def _bordered(frames: Tensor) -> Tensor:
    """(F, h, w) to (F, h + 2, w + 2), with the border repeated."""
    return torch.nn.functional.pad(frames, (1, 1, 1, 1), mode="replicate")


def patches_of_tiles(pixels: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) tiles to (B * rows * columns, C, 1, patch, patch) in raster order, without the rest of a
    patch at the right and the bottom."""
    rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
    cut = pixels[:, :, : rows * patch, : columns * patch]
    cells = cut.reshape(*cut.shape[:2], rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    return cells.flatten(0, 2).unsqueeze(2)
