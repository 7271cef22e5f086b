"""The quality rule of the planner: the predicted divergence of a schedule, from measurements on zoo/R.

The divergence is the KL divergence of the first token's distribution from that of the plain model, in nats,
the mean over tasks on validation questions, measured by ``make zoo-r-curves`` (docs/zoo-r-curves.md); a test
of illava-lab checks the figures against it. Each stage was measured alone; the divergences of both are
added. zoo/R has nine encoder blocks and 30 LLM layers, all pretrained: the figures rank schedules, but do not
predict the divergence of another model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Points = Sequence[tuple[float, float]]

THREE_LATE: Points = ((1 / 8, 0.129), (1 / 4, 0.0424), (1 / 2, 0.0134), (1.0, 0.0))
"""(share of tokens that three late steps leave, divergence)."""
BY_DEPTH: Sequence[tuple[float, Points]] = (
    (2 / 9, ((1 / 8, 0.476), (1 / 4, 0.269), (1 / 2, 0.106), (1.0, 0.0))),
    (4 / 9, ((1 / 8, 0.252), (1 / 4, 0.155), (1 / 2, 0.0378), (1.0, 0.0))),
    (5 / 9, ((1 / 8, 0.18), (1 / 4, 0.135), (1 / 2, 0.0188), (1.0, 0.0))),
    (6 / 9, ((1 / 8, 0.13), (1 / 4, 0.0676), (1 / 2, 0.0162), (1.0, 0.0))),
    (8 / 9, ((1 / 8, 0.0826), (1 / 4, 0.0787), (1 / 2, 0.0234), (1.0, 0.0))),
)
"""Share of the encoder's blocks up to that of its only step -> (share of tokens that it leaves,
divergence)."""
IN_LLM: Points = ((1 / 9, 0.0179), (1 / 3, 0.00626), (1.0, 0.0))
"""(share of tokens that a step in the middle of the LLM leaves of those that enter it, divergence)."""
BY_LLM_DEPTH: Points = ((1 / 3, 3.0), (1 / 2, 1.0), (2 / 3, 0.654))
"""(share of the LLM that runs before its step, divergence relative to a share of one half)."""
SMALLER_PICTURE: Points = ((121 / 1024, 0.607), (1 / 4, 0.368), (529 / 1024, 0.204), (1.0, 0.0))
"""(share of tokens, divergence) of a smaller picture, without merging."""


@dataclass(frozen=True)
class Placement:
    """Where a schedule merges, independent of the depth of a model."""

    encoder: float | None
    """Share of the encoder's blocks up to the one after whose attention its only step is, which is included;
    None: the preset's three late steps."""
    llm: float
    """Share of the LLM that runs before its step."""
    encoder_share: float
    """Share of the reduction in the encoder, in [0, 1] on a logarithmic scale."""
    smaller_picture: bool = False
    """Whether nothing is merged, but a smaller picture encoded; the other fields do not count."""


PRESET = Placement(None, 1 / 2, 0.75)
"""The placement of ``Illava.best``."""
PICTURE = Placement(0.0, 0.0, 1.0, smaller_picture=True)
"""No merging, but a smaller picture."""


def divergence(keep: float, placement: Placement = PRESET) -> float:
    """The predicted divergence of the first token from the plain model, in nats."""
    if placement.smaller_picture:
        return _by_tokens(SMALLER_PICTURE, keep)
    after_encoder = keep**placement.encoder_share
    return _in_encoder(after_encoder, placement.encoder) + _in_llm(keep / after_encoder, placement.llm)


def _in_encoder(left: float, depth: float | None) -> float:
    if depth is None:
        return _by_tokens(THREE_LATE, left)
    depths = [at for at, _ in BY_DEPTH]
    return _between(depths, lambda number: _by_tokens(BY_DEPTH[number][1], left), depth)


def _in_llm(left: float, depth: float) -> float:
    depths = [at for at, _ in BY_LLM_DEPTH]
    return _by_tokens(IN_LLM, left) * _between(depths, lambda number: BY_LLM_DEPTH[number][1], depth)


def _by_tokens(points: Points, left: float) -> float:
    """Divergence at a share of tokens: a power of it between the points, linear in its logarithm up to 1.

    Below the smallest share, of which nothing was measured, it is inversely proportional to the share.
    """
    smallest, most = points[0]
    if left < smallest:
        return most * smallest / left
    logs = [math.log(share) for share, _ in points]
    return _between(logs, lambda number: points[number][1], math.log(left))


def _between(places: Sequence[float], value: Callable[[int], float], at: float) -> float:
    """Interpolate linearly between the logarithms of the values, or between the values if one of them is 0.

    Extrapolates below the first place; constant above the last one.
    """
    if at >= places[-1]:
        return value(len(places) - 1)
    after = next((n for n, (_, high) in enumerate(pairwise(places), 1) if at <= high), 1)
    low, high = places[after - 1], places[after]
    below, above = value(after - 1), value(after)
    part = (at - low) / (high - low)
    if not above or not below:
        return below + part * (above - below)
    return math.exp(math.log(below) + part * (math.log(above) - math.log(below)))
