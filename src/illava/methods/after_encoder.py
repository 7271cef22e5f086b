"""Shared by the methods that act after the encoder: a step with a budget, and selection of units.

The functions are pure and act on S segments of n units each. Indices are int64, and ascending unless stated
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..ops.merging import LinearMap, Merged
from .steps import EncoderAttention, ProjectorStep


@dataclass(frozen=True)
class BudgetStep(ProjectorStep):
    """A step that keeps a share of a segment's units and observes the attention of the class token."""

    keep: float

    @property
    def keeps_all(self) -> bool:
        return self.keep == 1

    def observe_encoder(self, attention: EncoderAttention) -> Tensor:
        return attention.by_class()


def share_of(count: int, share: float) -> int:
    """max(1, round(share * count)), at most ``count``; ``round`` is Python's, which rounds half to even."""
    return min(count, max(1, round(share * count)))


def ranked(scores: Tensor) -> Tensor:
    """(S, n) scores to (S, n) indices, highest score first; ties are broken by the lower index."""
    return scores.float().argsort(dim=1, descending=True, stable=True)


def others(chosen: Tensor, n: int) -> Tensor:
    """(S, c) distinct indices, in any order, to the (S, n - c) indices that are not among them."""
    is_chosen = torch.zeros(len(chosen), n, dtype=torch.int64, device=chosen.device).scatter(1, chosen, 1)
    # A stable sort instead of nonzero(), which would synchronise with the device.
    return is_chosen.argsort(dim=1, stable=True)[:, : n - chosen.shape[1]]


def strided(indices: Tensor, count: int) -> Tensor:
    """(S, n) to (S, count): the first and every (n // count)-th after it."""
    return indices[:, :: indices.shape[1] // count][:, :count] if count else indices[:, :0]


def take(values: Tensor, indices: Tensor) -> Tensor:
    """(S, n, ...) values at (S, c) indices: (S, c, ...)."""
    return values[torch.arange(len(values), device=values.device)[:, None], indices]


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """(S, a, w) and (S, b, w) to (S, a, b) fp32 cosine similarities, 0 for zero vectors.

    Detached from the graph, since similarities are only used for selection.
    """
    return normalize(a.detach().float(), dim=-1) @ normalize(b.detach().float(), dim=-1).transpose(1, 2)


def survivors(units: Tensor, unchanged: Tensor, changed: Tensor, change: LinearMap | None = None) -> Merged:
    """The survivors of (S, n, D) units, in ascending order.

    Args:
        unchanged: (S, u) indices of units that are kept as they are, in any order. changed: (S, c) indices of
        survivors whose vectors are computed by ``change``, in any order. change: linear map from all units,
        (S, n, D) fp32, to the vectors at ``changed``, (S, c, D). Its result
            is cast to the dtype of the units. None: the units at ``changed`` are kept as they are.
    """
    kept, order = torch.cat([unchanged, changed], dim=1).sort(dim=1)
    if change is None:
        return Merged(take(units, kept), kept)
    rows = torch.cat([take(units, unchanged), change(units.float()).to(units.dtype)], dim=1)

    def linear_map(x: Tensor) -> Tensor:
        return take(torch.cat([take(x, unchanged), change(x)], dim=1), order)

    return Merged(take(rows, order), kept, None, linear_map)
