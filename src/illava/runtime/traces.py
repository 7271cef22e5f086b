"""What one step did; made only with ``accelerate(..., trace=True)``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods.steps import Units
from ..ops.merge_weights import MergeWeights, links
from ..ops.merging import MergedSegments


@dataclass(frozen=True)
class Trace:
    """One step of the encoder, the projector or the LLM, on the CPU."""

    entered: Tensor
    """(N,) int64: which units came to the step. Before the LLM among all units of the encoder run; in it the
    places of visual tokens in the (B, L) prompt, row by row."""
    kept: Tensor
    """(P,) int64: which of those stayed."""
    links: MergeWeights
    """What the survivors are made of: ``into`` among the kept, ``source`` among those that came."""
    scores: Tensor | None
    """(N,) fp32: the score that the step looked at; None where that is not one number a unit."""


def trace_of(merged: MergedSegments, units: Units, entered: Tensor) -> Trace:
    """Note what became of the ``units`` that came to a step."""
    # One number a token: in the LLM of each unit, before it of each of a unit's tokens.
    plain = units.seen is not None and units.seen.dim() == (2 if units.tokens is None else 1)
    scores = units.scores if plain else None
    return Trace(
        entered.cpu(),
        merged.kept.cpu(),
        MergeWeights(*(part.detach().cpu() for part in links(merged))),
        None if scores is None else scores.detach().float().cpu(),
    )


def all_stayed(entered: Tensor) -> Trace:
    """Of a step that dropped nothing."""
    everything = torch.arange(len(entered))
    ones = torch.ones(len(entered))
    return Trace(entered.cpu(), everything, MergeWeights(everything, everything, ones), None)
