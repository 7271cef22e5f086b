"""DART: keep visual tokens that duplicate neither each other nor the text, in the LLM (arXiv 2502.11494).

Pivots are the 4 visual tokens and the 4 later text tokens with the largest key norms. Each pivot in turn
selects the visual tokens least similar to it among those not yet selected. No attention scores are needed.

Where the specification leaves a choice: the norm is the L1 norm of all key heads concatenated, at the
previous layer, with the rotary embedding applied. Each run of visual tokens has its own pivots: visual ones
first, then text, each in descending order of norm. Its text pivots follow it in the same prompt; there are
fewer than 4 if fewer text tokens follow. Of T tokens to keep, T - 4 are divided among the m pivots:
int((T - 4) / m) each, and one more for each of the first pivots until T is reached. If T is less than 4, the
T visual tokens with the largest norms are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.graphs import captured
from ..ops.merging import Merged, MergedSegments, reduce_segments
from ..ops.transfers import upload
from .base import Method
from .checks import check_count, check_share
from .llm_layers import one_layer
from .steps import LlmAttention, LlmStep, Plan, Units

PUBLISHED_LAYER = 2
VISUAL_PIVOTS = TEXT_PIVOTS = 4


@dataclass(frozen=True)
class DART(Method):
    """Keep the visual tokens that are least similar to a few pivots, before one layer of the LLM.

    Args:
        layer: decoder layer (0-based, >= 1) before which tokens are dropped. None: 2, or the first layer
            before which tokens can be dropped: Qwen3-VL's first layers add features of the full prompt.
        keep: share of each run of visual tokens that is kept, in (0, 1]. None: 2/9, 128 of 576.

    Raises ValueError for values out of range, and from ``plan`` for a layer that the model does not have.
    """

    name: ClassVar[str] = "dart"

    layer: int | None = None
    keep: float | None = None

    def __post_init__(self) -> None:
        if self.layer is not None:
            check_count("layer", self.layer, 1)
        if self.keep is not None:
            object.__setattr__(self, "keep", check_share("keep", self.keep))

    def plan(self, modules: LocatedModules) -> Plan:
        layer = one_layer("layer", self.layer, PUBLISHED_LAYER, modules, "nothing")
        return Plan(llm={layer: PivotStep(2 / 9 if self.keep is None else self.keep)})


@dataclass(frozen=True)
class PivotStep(LlmStep):
    """Keep the pivots and the tokens least similar to them; observes the norms of keys."""

    keep: float
    """Share of the tokens that a segment had before any step."""

    @property
    def keeps_all(self) -> bool:
        return self.keep >= 1

    def observe_llm(self, attention: LlmAttention, context: Any) -> Tensor:
        """(B, n) fp32: the L1 norm of all key heads of a token."""
        return attention.keys.float().abs().sum((1, 3))

    def reduce(self, units: Units) -> MergedSegments | None:
        counts = units.counts(self.keep)
        if counts == units.lengths:
            return None
        assert units.seen is not None
        segment = upload(
            torch.arange(len(counts)).repeat_interleave(torch.tensor(units.lengths)), units.vectors.device
        )
        reducer = partial(_reduce, *text_pivots(units))
        return reduce_segments(reducer, units.lengths, counts, units.vectors, units.seen, segment)


def text_pivots(units: Units) -> tuple[Tensor, Tensor]:
    """The text tokens after each segment with the largest L1 norms of keys, in descending order.

    Returns their hidden states (S, at most 4, D), and how many of them are valid, (S,) int64.
    """
    tokens = units.tokens
    assert tokens is not None
    assert tokens.seen is not None
    rows, last_visual = units.ends
    index = torch.arange(tokens.runs.shape[1], device=rows.device)
    # Without a cache, generated tokens follow the prompt.
    later = tokens.text[rows] & (index > last_visual[:, None]) & (index <= tokens.last[rows, None])
    norms = tokens.seen[rows].float().masked_fill(~later, float("-inf"))
    best = norms.argsort(dim=1, descending=True, stable=True)[:, :TEXT_PIVOTS]
    return tokens.hidden[rows[:, None], best], later.sum(1).clamp(max=TEXT_PIVOTS)


def _reduce(text: Tensor, valid: Tensor, count: int, units: Tensor, norms: Tensor, segment: Tensor) -> Merged:
    """:func:`keep_dissimilar` with the text pivots of these segments."""
    return keep_dissimilar(count, units, norms, text[segment[:, 0]], valid[segment[:, 0]])


@captured
def keep_dissimilar(count: int, units: Tensor, norms: Tensor, text: Tensor, valid: Tensor) -> Merged:
    """Keep the units with the largest norms, and those least similar to them or to the text pivots.

    Args:
        count: units to keep of each segment, 1 <= count < n.
        units: (S, n, D) hidden states; similarity is their cosine, in fp32.
        norms: (S, n) fp32 norms of keys.
        text: (S, w, D) hidden states of the text pivots.
        valid: (S,) int64, how many of the w text pivots are valid.
    """
    visual = min(VISUAL_PIVOTS, count)
    order = norms.argsort(dim=1, descending=True, stable=True)[:, :visual]
    selected = torch.zeros_like(norms, dtype=torch.bool).scatter(1, order, True)
    if count > visual:
        x, w = (torch.nn.functional.normalize(part.detach().float(), dim=-1) for part in (units, text))
        pivots = torch.cat([torch.take_along_dim(x, order[..., None], 1), w], 1)
        similarity = pivots @ x.transpose(1, 2)
        rank = torch.arange(units.shape[1], device=units.device)
        pivot_count = visual + valid
        for number in range(pivots.shape[1]):
            quota = (count - visual) // pivot_count + (number < (count - visual) % pivot_count)
            quota = quota * (number < pivot_count)
            # Units that are already selected rank last.
            order = similarity[:, number].masked_fill(selected, float("inf")).argsort(dim=1, stable=True)
            selected = selected.scatter(1, order, (rank < quota[:, None]) | selected.gather(1, order))
    kept = (~selected).int().argsort(dim=1, stable=True)[:, :count]
    return Merged(torch.take_along_dim(units, kept[..., None], 1), kept)
