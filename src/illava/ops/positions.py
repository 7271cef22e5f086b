"""Positions of a shortened prompt renumbered without gaps, as if what is gone had never been there."""

from __future__ import annotations

import torch
from torch import Tensor


def compact(positions: Tensor, runs: Tensor, columns: Tensor) -> Tensor:
    """Close the gaps in the positions of tokens that are left.

    Text counts on one by one. Within a picture rows and columns are ranked, so that those of a grid of which
    every other one is left become those of a smaller grid; time, the first of three axes, keeps its
    distances. The text behind goes on after the longer of rows and columns, as M-RoPE counts. All are
    shifted so that the last token keeps its position: rotary embeddings know differences alone, and what is
    decoded afterwards goes on from there.

    Args:
        positions: (B or 1, n) or (axes, B or 1, n) int64.
        runs: (B, n) int64, run of placeholders a token belongs to, -1 for text.
        columns: (B, n) int64, -1 for padding and filler, whose positions stay what they are.
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
