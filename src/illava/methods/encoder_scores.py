"""Scores of the units of the image encoder, and units with outlying norms."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ..ops.scoring import rarity
from .steps import Units

EncoderScore = Literal[
    "attention", "own_row", "none", "size", "rarity", "norm", "change", "pixels", "attention+pixels"
]
ENCODER_SCORES: tuple[str, ...] = get_args(EncoderScore)
EQUAL_AT_FIRST = ("none", "size")
"""Scores that are the same for all units of a picture in which nothing was merged."""
Sinks = Literal["keep", "discount"]
SINKS: tuple[str, ...] = get_args(Sinks)

CUE_WEIGHT = 0.2
"""Weight of the cues of pixels beside the attention, in standard deviations of the attention (ERASE)."""
DEVIATIONS = 3.0
"""Standard deviations above the median at which a norm is an outlier, a common choice."""
OF_MAD = 1.4826
"""The standard deviation of normally distributed numbers / their median absolute deviation."""
LEAST_SPREAD = 1e-3
"""Least median absolute deviation, as a share of the median: rounding makes no outliers."""


def observed(kind: EncoderScore, units: Units) -> tuple[Tensor, ...]:
    """(U,) fp32 each: what :func:`encoder_scores` needs to know of the units, beside their vectors."""
    if kind in ("attention", "own_row"):
        return (units.scores,)
    if kind == "size":
        return (units.weights,)
    if kind == "change":
        assert units.entered is not None
        return (_norms(units.vectors.float() - units.entered.float()),)
    if "pixels" not in kind:
        return ()
    assert units.cues is not None
    return (units.cues,) if kind == "pixels" else (units.scores, units.cues)


def encoder_scores(kind: EncoderScore, vectors: Tensor, *given: Tensor, sinks: Sinks | None = None) -> Tensor:
    """(S, n) fp32 scores, not negative, of S segments of n units.

    Args:
        vectors: (S, n, D) units.
        given: (S, n) each, the values that :func:`observed` returned.
        sinks: whether to rank units with outlying norms before all others or after them; None: neither.
    """
    scores = _scores(kind, vectors, *given)
    if sinks is None:
        return scores
    outlying = outliers(vectors)
    if sinks == "discount":
        return scores.masked_fill(outlying, 0)
    # Not infinite: "diverse" multiplies scores by distances, which are 0 for copies.
    first = scores.amax(1, keepdim=True) * 1e6 + 1e-6
    return torch.where(outlying, first.expand_as(scores), scores)


def _scores(kind: EncoderScore, vectors: Tensor, *given: Tensor) -> Tensor:
    if kind == "none":
        return torch.ones(vectors.shape[:2], dtype=torch.float32, device=vectors.device)
    if kind == "rarity":
        return rarity(vectors)
    if kind == "norm":
        return _norms(vectors)
    if kind == "pixels":
        return _unit_range(*given)
    if kind == "attention+pixels":
        attention, cues = given
        spread = attention.std(1, correction=0, keepdim=True)
        return attention + CUE_WEIGHT * spread * _unit_range(cues)
    (values,) = given
    return values


def _unit_range(values: Tensor) -> Tensor:
    """(S, n) values of each segment, scaled to [0, 1]; zeros if all are equal."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)


def _norms(vectors: Tensor) -> Tensor:
    norms: Tensor = vectors.detach().float().norm(dim=-1)
    return norms


def outliers(vectors: Tensor) -> Tensor:
    """(S, n, D) to (S, n) bool: units whose norm is much larger than those of their segment.

    A few patches without content have large norms and attract attention whatever they show ("Vision
    Transformers Need Registers", arXiv 2309.16588). There the limit is a number for each model; here it is
    three standard deviations above the median, both estimated from medians, which outliers do not move.
    """
    norms = _norms(vectors)
    middle = norms.median(1, keepdim=True).values
    spread = (norms - middle).abs().median(1, keepdim=True).values
    return norms > middle + DEVIATIONS * OF_MAD * spread.clamp(min=LEAST_SPREAD * middle)
