"""ToMe: merge similar tokens in every block of the image encoder (arXiv 2210.09461).

Between attention and MLP, a segment's units are split into those at even and at odd indices. Each even unit
is matched with the odd unit whose keys are most similar, and the most similar pairs are merged. A merged unit
is the mean of its sources, weighted by their sizes: the number of original units merged into each. Later
blocks add the logarithm of the size to the attention logits of a unit.

Where the paper leaves a choice for vision-language models: a unit may consist of several tokens (those that
the projector folds into one); its keys, with the rotary embedding, are then concatenated. A merged unit takes
the index of its first source, so that the LLM receives units in raster order. Class tokens are never merged.
With window attention, units also merge across windows, into the window of the first source. Every block
merges the same number of units, except the last ones, which stop when the budget is reached.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from ..models.located import LocatedModules, feature_blocks
from ..ops.graphs import captured
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .base import Method
from .checks import check_layer_exists, check_layers, check_share
from .steps import EncoderAttention, EncoderStep, Plan, Units, final_count


@dataclass(frozen=True)
class ToMe(Method):
    """Merge the most similar tokens block by block in the image encoder.

    Args:
        keep: share of all visual tokens left at the end, in (0, 1]. None: 1/3. One block can merge at most
            half of the units, so ``b`` blocks leave at least 1 / 2**b of them, even if ``keep`` is smaller.
        encoder_layers: blocks (0-based) between whose attention and MLP tokens merge. None: every block up to
            the one whose output the projector receives, or the first of several (VipLLaVA).
        proportional: add the logarithm of a unit's size to its attention logits in later blocks.

    Raises ValueError for values out of range.
    """

    name: ClassVar[str] = "tome"

    keep: float | None = None
    encoder_layers: tuple[int, ...] | None = None
    proportional: bool = True

    def __post_init__(self) -> None:
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))
        if self.encoder_layers is not None:
            layers = check_layers("encoder_layers", self.encoder_layers)
            if not layers:
                raise ValueError("encoder_layers needs at least one block to merge at, or None for all")
            object.__setattr__(self, "encoder_layers", layers)
        if not isinstance(self.proportional, bool):
            raise ValueError(f"proportional must be True or False, got {self.proportional!r}")

    def plan(self, modules: LocatedModules) -> Plan:
        keep = 1 / 3 if self.keep is None else self.keep
        layers: Sequence[int] = range(feature_blocks(modules)[0] + 1)
        if self.encoder_layers is not None:
            layers = self.encoder_layers
            check_layer_exists("encoder_layers", layers[-1], len(modules.blocks))
        steps = [ToMeStep(keep, i + 1, len(layers), self.proportional) for i in range(len(layers))]
        return Plan(encoder=dict(zip(layers, steps, strict=True)))


@dataclass(frozen=True)
class ToMeStep(EncoderStep):
    """The merge step of one block."""

    keep: float
    number: int
    """Number of this step, counted from 1."""
    steps: int
    """Number of all steps."""
    proportional: bool = True

    @property
    def keeps_all(self) -> bool:
        return self.keep >= 1

    @property
    def proportional_attention(self) -> bool:
        return self.proportional

    @property
    def absorbs_all(self) -> bool:
        return True

    def observe_encoder(self, attention: EncoderAttention) -> Tensor:
        """(B, n, h) fp32: keys averaged over heads."""
        return attention.key.float().mean(1)

    def count(self, n: int, of: int, grid: tuple[int, int] | None = None) -> int:
        return merged_count(of, final_count(of, of, self.keep), self.number, self.steps)

    def reduce(self, units: Units) -> MergedSegments | None:
        assert units.seen is not None
        counts = [self.count(n, of) for n, of in zip(units.lengths, units.full, strict=True)]
        keys = units.seen.flatten(1)
        return reduce_segments(merge_similar, units.lengths, counts, units.vectors, keys, sizes=units.weights)


@lru_cache(maxsize=4096)
def merged_count(of: int, target: int, number: int, steps: int) -> int:
    """Number of units left of ``of`` after step ``number`` (from 1) of ``steps`` that aim at ``target``.

    Each step merges r units, at most half of those that enter it, until ``target`` is reached. r is the
    smallest number for which it is reached, or the largest possible number if none reaches it.
    """
    # The number of units left is monotone in r.
    r = bisect_left(range(of // 2), True, key=lambda r: _left(of, target, steps, r) == target)
    return _left(of, target, number, r)


def _left(of: int, target: int, steps: int, r: int) -> int:
    for _ in range(steps):
        of = max(target, of - min(r, of // 2))
    return of


@captured
def merge_similar(p: int, units: Tensor, keys: Tensor, *, sizes: Tensor) -> Merged:
    """Merge S segments of n units to p each, by the most similar pairs of an even and an odd unit.

    Args:
        p: units to keep, n - n // 2 <= p < n.
        units: (S, n, D), any floating dtype.
        keys: (S, n, k), compared by cosine similarity. Ties between odd units, and between pairs, are broken
            by the lower index.
        sizes: (S, n) fp32 number of original units merged into each.

    Returns the means weighted by size (units that absorb none are unchanged), the index of the first source
    of each, and the sums of sizes.
    """
    segments, n, _ = units.shape
    unit = normalize(keys.float(), dim=2)
    similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    # argmax returns the first of several maxima.
    partner = similarity.argmax(2)
    strength = similarity.gather(2, partner.unsqueeze(2)).squeeze(2)
    merged = strength.sort(dim=1, descending=True, stable=True).indices[:, : n - p]
    target = partner.gather(1, merged)
    # (S, odd, merged), one where a unit is merged into another: a matrix product sums in a fixed order.
    assignment = one_hot(target, n // 2).transpose(1, 2).float()
    rows = torch.arange(segments, device=units.device)[:, None]
    sources = 2 * merged
    total = sizes.clone()
    total[:, 1::2] += (assignment @ sizes[rows, sources].unsqueeze(2)).squeeze(2)
    absorbs = assignment.any(2, keepdim=True)

    # Index of the first source of each unit; n for units merged into another.
    first_source = torch.arange(n, device=units.device).repeat(segments, 1)
    first_source[:, 1::2] = first_source[:, 1::2].scatter_reduce(1, target, sources, "amin")
    first_source.scatter_(1, sources, n)
    order = first_source.argsort(dim=1, stable=True)[:, :p]

    def linear_map(x: Tensor) -> Tensor:
        weighted, out = x.float() * sizes.unsqueeze(2), x.clone()
        mean = (weighted[:, 1::2] + assignment @ weighted[rows, sources]) / total[:, 1::2].unsqueeze(2)
        out[:, 1::2] = torch.where(absorbs, mean.to(x.dtype), x[:, 1::2])
        return out[rows, order]

    return Merged(linear_map(units), first_source.gather(1, order), total.gather(1, order), linear_map)
