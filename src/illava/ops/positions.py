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
    out = axes.clone()
    for row, (run, column) in enumerate(zip(runs, columns, strict=True)):
        places = (column >= 0).nonzero().flatten().to(positions.device)
        before = axes[:, row, places]
        pieces, counts = run.to(positions.device)[places].unique_consecutive(return_counts=True)
        after, at = [], 0
        for piece, part in zip(pieces.tolist(), torch.split(before, counts.tolist(), dim=1), strict=True):
            if piece < 0:
                ranks = torch.arange(part.shape[1], device=part.device).expand_as(part)
            else:
                ranks = torch.stack([axis.unique(return_inverse=True)[1] for axis in part])
            extent = int(ranks[len(part) > 1 :].max()) + 1
            if len(part) > 1 and piece >= 0:
                ranks = torch.cat([part[:1] - part[0].min(), ranks[1:]])
            after.append(at + ranks)
            at += extent
        renumbered = torch.cat(after, 1)
        out[:, row, places] = renumbered + (before[:, -1:] - renumbered[:, -1:])
    return out if positions.dim() == 3 else out[0]
