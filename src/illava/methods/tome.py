"""ToMe: merge similar tokens in every block of the image encoder (arXiv 2210.09461).

Between attention and MLP a segment's units are split into those at even and those at odd places. Each even
one proposes to the odd one whose keys are most like its own, and the strongest proposals are carried out:
units become means, weighted by how many units each already stands for. In later blocks a unit gets
attention in proportion to that size. About equally many go at every block.

Where the paper leaves something open for vision-language models: a unit may be several tokens (those that
the projector folds into one); its keys, rotary embedding included, are then put side by side. A merged unit
stands at the place of its first source, so that the LLM gets units in the order of the picture. Class tokens
are never merged. Under window attention units merge across windows too, into the window of the first. The
same number of units goes at every block, but for the last ones, which stop when the budget is reached.
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
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .base import Method
from .checks import check_layer_exists, check_layers, check_share
from .steps import EncoderAttention, EncoderStep, Plan, Units, final_count


@dataclass(frozen=True)
class ToMe(Method):
    """Merge the most similar tokens block by block in the image encoder.

    Args:
        keep: final visual tokens / all, in (0, 1]. None: 1/3. At one block no more than half of the units
            can go, so that ``b`` blocks leave at least 1 / 2**b of them, whatever is asked for.
        encoder_layers: blocks (0-based) between whose attention and MLP tokens merge. None: every block up to
            the one whose output the LLM sees, of several (VipLLaVA) up to the first.
        proportional: add the logarithm of a unit's size to the attention it gets in later blocks.

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
    """The merging at one block."""

    keep: float
    number: int
    """Which of the steps this is, counted from 1."""
    steps: int
    """How many there are."""
    proportional: bool = True

    @property
    def keeps_all(self) -> bool:
        return self.keep >= 1

    @property
    def proportional_attention(self) -> bool:
        return self.proportional

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
    """Units left of ``of`` after step ``number`` (from 1) of ``steps`` that are to leave ``target``.

    At each step r go, at most half of those there are, until ``target`` is reached; r is the smallest number
    for which it is reached, or the largest possible where none suffices.
    """
    # More going never leaves more.
    r = bisect_left(range(of // 2), True, key=lambda r: _left(of, target, steps, r) == target)
    return _left(of, target, number, r)


def _left(of: int, target: int, steps: int, r: int) -> int:
    for _ in range(steps):
        of = max(target, of - min(r, of // 2))
    return of


def merge_similar(p: int, units: Tensor, keys: Tensor, *, sizes: Tensor) -> Merged:
    """Merge S segments of n units to p each, by the most similar pairs of an even and an odd unit.

    Args:
        p: units that stay, n - n // 2 <= p < n.
        units: (S, n, D), any floating dtype.
        keys: (S, n, k), what similarity goes by, compared by cosine. Of equally similar odd units the first
            is taken, of equally similar pairs that of the first even unit.
        sizes: (S, n) fp32, how many units each stands for already.

    Returns means weighted by size (units that nothing merged with as they are), the place of each one's first
    source and the sums of sizes.
    """
    segments, n, _ = units.shape
    unit = normalize(keys.float(), dim=2)
    similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    # argmax finds the first of several.
    partner = similarity.argmax(2)
    strength = similarity.gather(2, partner.unsqueeze(2)).squeeze(2)
    going = strength.sort(dim=1, descending=True, stable=True).indices[:, : n - p]
    into = partner.gather(1, going)
    # (S, odd, going), ones where a unit goes into another: a product adds in the same order every time.
    moves = one_hot(into, n // 2).transpose(1, 2).float()
    rows = torch.arange(segments, device=units.device)[:, None]
    sources = 2 * going
    total = sizes.clone()
    total[:, 1::2] += (moves @ sizes[rows, sources].unsqueeze(2)).squeeze(2)
    grown = moves.any(2, keepdim=True)

    # Where each unit's first source stands; n for those that went.
    places = torch.arange(n, device=units.device).repeat(segments, 1)
    places[:, 1::2] = places[:, 1::2].scatter_reduce(1, into, sources, "amin")
    places[rows, sources] = n
    order = places.argsort(dim=1, stable=True)[:, :p]

    def linear_map(x: Tensor) -> Tensor:
        weighed, mixed = x.float() * sizes.unsqueeze(2), x.clone()
        mean = (weighed[:, 1::2] + moves @ weighed[rows, sources]) / total[:, 1::2].unsqueeze(2)
        mixed[:, 1::2] = torch.where(grown, mean.to(x.dtype), x[:, 1::2])
        return mixed[rows, order]

    return Merged(linear_map(units), places.gather(1, order), total.gather(1, order), linear_map)
