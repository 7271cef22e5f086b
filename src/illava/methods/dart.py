"""DART: keep visual tokens that repeat neither each other nor the words, once in the LLM (arXiv 2502.11494).

Pivots are the 4 visual tokens and the 4 later words whose keys are largest. Every pivot in turn takes the
visual tokens least similar to it from those not yet taken. No attention is needed.

Decided here, where the specification leaves it open: "largest" is the L1 norm of all key heads side by side,
at the layer before, rotary embedding applied. Each run of visual tokens has pivots of its own, visual ones
first, each kind from the largest norm down; its words are those after it in the same prompt, fewer than 4
if there are no more. Of T tokens to keep, T - 4 are shared out among the m pivots: int((T - 4) / m) each,
and one more for the first of them until T is reached. Without room for the visual pivots, the T of them with
the largest norm stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..models.located import LocatedModules
from ..ops.merging import Merged, MergedSegments, reduce_segments
from .base import Method
from .checks import check_count, check_share
from .llm_layers import one_layer
from .steps import LlmAttention, LlmStep, Plan, Units

PUBLISHED_LAYER = 2
VISUAL_PIVOTS = TEXT_PIVOTS = 4


@dataclass(frozen=True)
class DART(Method):
    """Keep visual tokens that are little like a few pivots, before one layer of the LLM.

    Args:
        layer: decoder layer (0-based, >= 1) before which tokens leave. None: 2, or the first one before
            which they can: Qwen3-VL's first layers take in features of the full prompt.
        keep: share of each run of visual tokens that stays, in (0, 1]. None: 2/9, 128 of 576.

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
    """Keep pivots and what is unlike them; observes the norms of keys."""

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
        numbers = torch.arange(len(counts), device=units.vectors.device)
        segment = numbers.repeat_interleave(torch.tensor(units.lengths, device=numbers.device))
        reducer = partial(_reduce, *text_pivots(units))
        return reduce_segments(reducer, units.lengths, counts, units.vectors, units.seen, segment)


def text_pivots(units: Units) -> tuple[Tensor, Tensor]:
    """The words after each segment whose keys are largest, in falling order of their L1 norm.

    Returns hidden states (S, at most 4, D) and how many of them count, (S,) int64.
    """
    tokens = units.tokens
    assert tokens is not None
    assert tokens.seen is not None
    ends = torch.tensor(units.lengths).cumsum(0).sub(1).clamp(min=0).to(tokens.runs.device)
    rows, places = (at[ends] for at in (tokens.runs >= 0).nonzero(as_tuple=True))
    index = torch.arange(tokens.runs.shape[1], device=places.device)
    # What was generated may follow the prompt, where there is no cache.
    later = tokens.text[rows] & (index > places[:, None]) & (index <= tokens.last[rows, None])
    norms = tokens.seen[rows].float().masked_fill(~later, float("-inf"))
    best = norms.argsort(dim=1, descending=True, stable=True)[:, :TEXT_PIVOTS]
    return tokens.hidden[rows[:, None], best], later.sum(1).clamp(max=TEXT_PIVOTS)


def _reduce(
    words: Tensor, counted: Tensor, count: int, units: Tensor, norms: Tensor, segment: Tensor
) -> Merged:
    """:func:`keep_unlike` with the words of these segments."""
    return keep_unlike(count, units, norms, words[segment[:, 0]], counted[segment[:, 0]])


def keep_unlike(count: int, units: Tensor, norms: Tensor, words: Tensor, counted: Tensor) -> Merged:
    """Keep the units of largest norm, and those least similar to them or to words.

    Args:
        count: units to keep of each segment, 1 <= count < n.
        units: (S, n, D) hidden states; similarity is their cosine, in fp32.
        norms: (S, n) fp32, of keys.
        words: (S, w, D), further pivots.
        counted: (S,) int64, how many of these there are.
    """
    visual = min(VISUAL_PIVOTS, count)
    order = norms.argsort(dim=1, descending=True, stable=True)[:, :visual]
    taken = torch.zeros_like(norms, dtype=torch.bool).scatter(1, order, True)
    if count > visual:
        x, w = (torch.nn.functional.normalize(part.detach().float(), dim=-1) for part in (units, words))
        pivots = torch.cat([torch.take_along_dim(x, order[..., None], 1), w], 1)
        similar = pivots @ x.transpose(1, 2)
        places = torch.arange(units.shape[1], device=units.device)
        for number in range(pivots.shape[1]):
            asking = visual + counted
            quota = (count - visual) // asking + (number < (count - visual) % asking)
            quota = quota * (number < asking)
            # Those taken already come last.
            order = similar[:, number].masked_fill(taken, float("inf")).argsort(dim=1, stable=True)
            taken = taken.scatter(1, order, (places < quota[:, None]) | taken.gather(1, order))
    kept = (~taken).int().argsort(dim=1, stable=True)[:, :count]
    return Merged(torch.take_along_dim(units, kept[..., None], 1), kept)
