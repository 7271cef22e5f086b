"""Draws the next token of every row by the row's own temperature, top-p and seed.

``generate`` has one temperature and one generator for a batch. Here each row has its own, so that a request
with a seed is answered the same alone and among others, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor


@dataclass(frozen=True)
class Sampling:
    """How a request's tokens are drawn."""

    temperature: float = 0.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Only the most likely tokens that together have this probability are drawn from."""
    seed: int | None = None
    """None: another one each time."""


class RowSampler(LogitsProcessor):
    """Leaves of a row's logits only the token that was drawn, so that greedy decoding picks it."""

    def __init__(self, samplings: Sequence[Sampling]) -> None:
        self.samplings = tuple(samplings)
        self.generators = [_generator(sampling) for sampling in self.samplings]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) logits to (B, V) logits; rows of temperature 0 are returned as they are."""
        for row, (sampling, generator) in enumerate(zip(self.samplings, self.generators, strict=True)):
            if sampling.temperature > 0:
                token = draw(scores[row], sampling, generator)
                scores[row] = -torch.inf
                scores[row, token] = 0.0
        return scores


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw a token from (V,) logits on any device, with a generator of the CPU."""
    # In float64 and less the maximum, so that no temperature above 0 makes the largest logit infinite.
    logits = logits.double().cpu()
    probabilities = ((logits - logits.max()) / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        # The most likely token has nothing before it and always stays.
        probabilities[order[before >= sampling.top_p]] = 0.0
    return int(torch.multinomial(probabilities, 1, generator=generator))


def _generator(sampling: Sampling) -> torch.Generator:
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        # Negative seeds are as good as others.
        generator.manual_seed(sampling.seed % 2**63)
    return generator
