"""The quality rule of the planner: what merging early and hard has cost on the shipped models.

Figures are divergences: KL in nats of the first token's distribution from the plain model's, means of zoo/S
and zoo/L. They come from docs/comparison (test split, how it falls with the budget) and docs/ablations.md
(validation split, how it changes with the layers), and a test holds the two together. Toys of six blocks and
six layers: they rank schedules, and say little of how far a large model will be off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BY_KEEP = ((1 / 18, 0.0648), (1 / 9, 0.00972), (1 / 6, 0.00705), (1 / 3, 0.00541), (1.0, 0.0))
"""(final visual tokens / all, divergence) of the preset illava-best."""
BY_ENCODER_PLACE = ((1 / 6, 4.0), (1 / 3, 1.33), (1 / 2, 1.0), (2 / 3, 1.0))
"""(share of the encoder that runs at full length, times the divergence of one half). That of 1/6 is a guess
on the safe side: nothing so early was measured with this way of choosing."""
BY_ENCODER_SHARE = ((0.0, 0.44), (0.35, 0.97), (0.5, 1.0), (0.65, 2.46), (1.0, 7.8))
"""(share of the reduction that the encoder does, on a logarithmic scale; times the divergence of a half)."""
BY_LLM_PLACE = ((1 / 3, 17.4), (1 / 2, 1.0), (2 / 3, 0.97))
"""(share of the LLM that runs at the length that enters it, times the divergence of one half)."""

EARLIEST_ENCODER, EARLIEST_LLM = 1 / 3, 1 / 2
"""Places from which on no loss against the preset was significant."""
MOST_BY_ENCODER = 0.65
"""Likewise, how much of the reduction the encoder may do."""


@dataclass(frozen=True)
class Where:
    """Where a schedule of one step in each stage merges, as shares that hold for models of any depth."""

    encoder: float
    """Share of the encoder that runs at full length."""
    llm: float
    """Share of the LLM that runs at the length that enters it."""
    encoder_share: float
    """How much of the reduction the encoder does, in [0, 1] on a logarithmic scale."""

    @property
    def measured(self) -> bool:
        """Whether it lies where no loss against the preset was significant."""
        early = self.encoder < EARLIEST_ENCODER - 1e-9 or self.llm < EARLIEST_LLM - 1e-9
        return not early and self.encoder_share <= MOST_BY_ENCODER


PRESET = Where(1 / 2, 1 / 2, 0.5)
"""Where ``Illava.best`` merges."""


def divergence(keep: float, where: Where = PRESET) -> float:
    """What the rule expects of a budget and a place, in nats of the first token."""
    return (
        _between(BY_KEEP, keep)
        * _between(BY_ENCODER_PLACE, where.encoder)
        * _between(BY_ENCODER_SHARE, where.encoder_share)
        * _between(BY_LLM_PLACE, where.llm)
    )


def _between(known: Sequence[tuple[float, float]], at: float) -> float:
    """Straight lines between logarithms of the values, on below the first, flat behind the last.

    Towards a value of 0 the line is one of the values themselves.
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
