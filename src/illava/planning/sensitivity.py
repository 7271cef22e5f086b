"""The quality rule of the planner: the predicted divergence of a schedule, from measurements on toy models.

The divergence is the KL divergence of the first token's distribution from that of the plain model, in nats,
averaged over zoo/S and zoo/L. Its dependence on the budget was measured on the test split
(docs/comparison.md), its dependence on the layers on the validation split (docs/ablations.md). A test checks
the figures against these pages. The toy models have six encoder blocks and six LLM layers: the figures rank
schedules, but do not predict the divergence of a large model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BY_KEEP = ((1 / 18, 0.0648), (1 / 9, 0.00972), (1 / 6, 0.00705), (1 / 3, 0.00541), (1.0, 0.0))
"""(keep, divergence) of the preset illava-best."""
BY_ENCODER_DEPTH = ((1 / 6, 4.0), (1 / 3, 1.33), (1 / 2, 1.0), (2 / 3, 1.0))
"""(share of the encoder that runs at full length, divergence relative to a share of one half). The value at
1/6 is a conservative guess: so early a step was not measured with this selection."""
BY_ENCODER_SHARE = ((0.0, 0.44), (0.35, 0.97), (0.5, 1.0), (0.65, 2.46), (1.0, 7.8))
"""(share of the reduction in the encoder, on a logarithmic scale; divergence relative to one half)."""
BY_LLM_DEPTH = ((1 / 3, 17.4), (1 / 2, 1.0), (2 / 3, 0.97))
"""(share of the LLM that runs before its step, divergence relative to a share of one half)."""

EARLIEST_ENCODER, EARLIEST_LLM = 1 / 3, 1 / 2
"""Earliest steps without a significant loss against the preset, as shares of the depth."""
MAX_ENCODER_SHARE = 0.65
"""Largest share of the reduction in the encoder without a significant loss against the preset."""


@dataclass(frozen=True)
class Placement:
    """Where a schedule with one step in each stage merges, independent of the depth of a model."""

    encoder: float
    """Share of the encoder that runs at full length."""
    llm: float
    """Share of the LLM that runs before its step."""
    encoder_share: float
    """Share of the reduction in the encoder, in [0, 1] on a logarithmic scale."""

    @property
    def measured(self) -> bool:
        """Whether no significant loss against the preset was measured here."""
        early = self.encoder < EARLIEST_ENCODER - 1e-9 or self.llm < EARLIEST_LLM - 1e-9
        return not early and self.encoder_share <= MAX_ENCODER_SHARE


PRESET = Placement(1 / 2, 1 / 2, 0.5)
"""The placement of ``Illava.best``."""


def divergence(keep: float, placement: Placement = PRESET) -> float:
    """The predicted divergence of the first token from the plain model, in nats."""
    return (
        _interpolate(BY_KEEP, keep)
        * _interpolate(BY_ENCODER_DEPTH, placement.encoder)
        * _interpolate(BY_ENCODER_SHARE, placement.encoder_share)
        * _interpolate(BY_LLM_DEPTH, placement.llm)
    )


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
