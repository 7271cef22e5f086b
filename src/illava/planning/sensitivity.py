"""The quality rule of the planner: the predicted divergence of a schedule, from measurements on zoo/R.

The divergence is the KL divergence of the first token's distribution from that of the plain model, in nats,
the mean over tasks on validation questions, measured by ``make zoo-r-curves`` (docs/zoo-r-curves.md); a test
of illava-lab checks the figures against it. zoo/R has nine encoder blocks and 30 LLM layers, all pretrained:
the figures rank schedules, but do not predict the divergence of another model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BY_KEEP = ((1 / 18, 0.162), (1 / 9, 0.098), (1 / 6, 0.0609), (1 / 3, 0.0167), (1 / 2, 0.00718), (1.0, 0.0))
"""(keep, divergence) of the preset illava-best."""
BY_ENCODER_DEPTH = (
    (1.5 / 9, 3.69),
    (2.5 / 9, 3.98),
    (3.5 / 9, 2.76),
    (4.5 / 9, 1.86),
    (6.5 / 9, 0.866),
    (8.5 / 9, 0.921),
)
"""(share of the encoder that runs before a single step, divergence relative to the preset's three late
steps)."""
BY_ENCODER_SHARE = ((0.0, 0.182), (0.25, 0.437), (0.5, 0.476), (0.75, 1.0), (1.0, 1.3))
"""(share of the reduction in the encoder, on a logarithmic scale; divergence relative to the preset's)."""
BY_LLM_DEPTH = ((1 / 6, 1.18), (1 / 3, 1.28), (1 / 2, 1.0), (2 / 3, 0.871), (5 / 6, 0.918))
"""(share of the LLM that runs before its step, divergence relative to a share of one half)."""

EARLIEST_ENCODER, EARLIEST_LLM = 6.5 / 9, 1 / 2
"""Steps at these shares of the depth, or later, have no significantly larger divergence than the preset's; of
earlier ones some have."""
MAX_ENCODER_SHARE = 0.75
"""Largest share of the reduction in the encoder without a significantly larger divergence."""


@dataclass(frozen=True)
class Placement:
    """Where a schedule merges, independent of the depth of a model."""

    encoder: float | None
    """Share of the encoder that runs at full length before its only step; None: the preset's three late
    steps."""
    llm: float
    """Share of the LLM that runs before its step."""
    encoder_share: float
    """Share of the reduction in the encoder, in [0, 1] on a logarithmic scale."""

    @property
    def measured(self) -> bool:
        """Whether no significantly larger divergence than the preset's was measured here."""
        alone = self.encoder is not None and self.encoder_share > 0
        early = alone and self.encoder < EARLIEST_ENCODER - 1e-9  # type: ignore[operator]
        early |= self.encoder_share < 1 and self.llm < EARLIEST_LLM - 1e-9
        return not early and self.encoder_share <= MAX_ENCODER_SHARE


PRESET = Placement(None, 1 / 2, 0.75)
"""The placement of ``Illava.best``."""


def divergence(keep: float, placement: Placement = PRESET) -> float:
    """The predicted divergence of the first token from the plain model, in nats."""
    found = _interpolate(BY_KEEP, keep) * _interpolate(BY_ENCODER_SHARE, placement.encoder_share)
    if placement.encoder is not None and placement.encoder_share:
        found *= _interpolate(BY_ENCODER_DEPTH, placement.encoder)
    if placement.encoder_share < 1:
        found *= _interpolate(BY_LLM_DEPTH, placement.llm)
    return found


def _interpolate(known: Sequence[tuple[float, float]], at: float) -> float:
    """Interpolate linearly between the logarithms of the values, or between the values if one of them is 0.

    Extrapolates below the first point; constant above the last one.
    """
    if at >= known[-1][0]:
        return known[-1][1]
    (low, below), (high, above) = next(
        (pair for pair in pairwise(known) if at <= pair[1][0]), (known[-2], known[-1])
    )
    part = (at - low) / (high - low)
    if not above or not below:
        return below + part * (above - below)
    return math.exp(math.log(below) + part * (math.log(above) - math.log(below)))
