"""The record of a step, made only for ``accelerate(trace=True)``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods.steps import Units
from ..ops.merge_weights import MergeWeights, merge_weights
from ..ops.merging import MergedSegments


@dataclass(frozen=True)
class Trace:
    """One step of the encoder, the projector or the LLM, on the CPU."""

    entered: Tensor
    """(N,) int64: the input units of the step. Before the LLM these are indices among all units of the
    encoder run; in the LLM, flat indices of visual tokens in the (B, L) prompt."""
    kept: Tensor
    """(P,) int64: indices of the survivors among the input units."""
    merge_weights: MergeWeights
    """The sources of the survivors: ``into`` indexes survivors, ``source`` indexes input units."""
    scores: Tensor | None
    """(N,) fp32: the attention score of each input unit; None if it is not a single number."""


def trace_of(merged: MergedSegments, units: Units, entered: Tensor) -> Trace:
    """The record of a step on ``units``."""
    # One number per token: (U,) in the LLM, (U, g) before it.
    is_score = units.seen is not None and units.seen.dim() == (2 if units.tokens is None else 1)
    scores = units.scores if is_score else None
    return Trace(
        entered.cpu(),
        merged.kept.cpu(),
        MergeWeights(*(part.detach().cpu() for part in merge_weights(merged))),
        None if scores is None else scores.detach().float().cpu(),
    )


def all_kept(entered: Tensor) -> Trace:
    """The record of a step that kept every unit."""
    everything = torch.arange(len(entered))
    ones = torch.ones(len(entered))
    return Trace(entered.cpu(), everything, MergeWeights(everything, everything, ones), None)
