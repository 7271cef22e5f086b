"""Position ids of a shortened prompt, renumbered without gaps as if dropped tokens had never existed."""

from __future__ import annotations

import torch
from torch import Tensor


def compact(positions: Tensor, runs: Tensor, columns: Tensor) -> Tensor:
    """Renumber the positions of the remaining tokens without gaps.

    Text tokens get consecutive positions. Within an image, rows and columns are replaced with their ranks, so
    that a grid of which every other row is left gets the positions of a smaller grid. Time, the first of
    three axes, keeps its distances. The text after an image continues after the larger of its extents, as in
    M-RoPE. Finally all positions are shifted so that the last token keeps its position, from which decoding
    continues. The shift itself changes nothing, since rotary embeddings depend on differences only.

    Args:
        positions: (B or 1, n) or (axes, B or 1, n) int64.
        runs: (B, n) int64, the run of placeholders that each token belongs to; -1 for text.
        columns: (B, n) int64, -1 for padding and filler, whose positions do not change.
    """
    axes = (positions if positions.dim() == 3 else positions[None]).expand(-1, len(runs), -1)
    runs, real = runs.to(axes.device), (columns >= 0).to(axes.device)
    # Real tokens first, in their order.
    order = real.logical_not().int().argsort(dim=1, stable=True)
    before, runs, real = _at(axes, order), runs.gather(1, order), real.gather(1, order)
    pieces = _pieces(runs, real)
    places = torch.arange(runs.shape[1], device=axes.device).expand_as(before)
    image = (runs >= 0).expand_as(before)
    ranks = torch.where(image, _ranks(before, pieces), places - _least(places, pieces))
    if len(axes) > 1:
        ranks[0] = torch.where(image[0], before[0] - _least(before[:1], pieces)[0], ranks[0])
    extents = (ranks[len(axes) > 1 :].amax(0) + 1).masked_fill(~real, 0)
    extents = extents.new_zeros(len(runs), runs.shape[1] + 1).scatter_reduce_(1, pieces, extents, "amax")
    renumbered = ranks + (extents.cumsum(1) - extents).gather(1, pieces)
    last = (real.sum(1, keepdim=True) - 1).clamp(min=0)
    renumbered = renumbered + _at(before, last) - _at(renumbered, last)
    out = axes.scatter(2, order.expand_as(before), torch.where(real, renumbered, before))
    return out if positions.dim() == 3 else out[0]


def _at(axes: Tensor, index: Tensor) -> Tensor:
    """Select from (axes, B, n) at (B, k) int64 indices."""
    return axes.gather(2, index.expand(len(axes), -1, -1))


def _pieces(runs: Tensor, real: Tensor) -> Tensor:
    """(B, n) int64: numbers of the parts of each row that belong to one run, or to text; n for filler."""
    starts = runs != torch.nn.functional.pad(runs, (1, 0), value=-2)[:, :-1]
    return (starts.cumsum(1) - 1).masked_fill(~real, runs.shape[1])


def _least(values: Tensor, pieces: Tensor) -> Tensor:
    """(axes, B, n): the smallest of the values of each token's piece."""
    index = pieces.expand_as(values)
    most = values.new_full((*values.shape[:2], values.shape[2] + 1), torch.iinfo(values.dtype).max)
    return most.scatter_reduce_(2, index, values, "amin").gather(2, index)


def _ranks(values: Tensor, pieces: Tensor) -> Tensor:
    """(axes, B, n): the rank of each value among the different ones of its piece."""
    index = pieces.expand_as(values)
    by_value = values.argsort(dim=2, stable=True)
    by_piece = by_value.gather(2, index.gather(2, by_value).argsort(dim=2, stable=True))
    value, piece = values.gather(2, by_piece), index.gather(2, by_piece)
    new = torch.nn.functional.pad((value.diff(dim=2) != 0) | (piece.diff(dim=2) != 0), (1, 0), value=False)
    ranks = torch.zeros_like(values).scatter(2, by_piece, new.cumsum(2))
    return ranks - _least(ranks, pieces)
