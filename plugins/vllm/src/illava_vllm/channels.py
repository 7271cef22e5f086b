"""Positions of survivors as further channels of their features.

vLLM caches the features of a picture, and cuts them where chunks of a prompt end. What belongs to a feature
has to travel with it. bfloat16 holds whole numbers up to 256 only, so a number is split into three digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

BASE, DIGITS, NUMBERS = 256, 3, 3
CHANNELS = DIGITS * NUMBERS


def with_numbers(features: Tensor, numbers: Tensor) -> Tensor:
    """(P, d) features and (P, 3) int64 numbers from 0 to 2 ** 24 - 1, to (P, d + 9) of the same dtype."""
    powers = torch.tensor([BASE**n for n in range(DIGITS)], device=numbers.device)
    digits = numbers[..., None] // powers % BASE
    return torch.cat([features, digits.flatten(1).to(features.device, features.dtype)], dim=1)


def without_numbers(features: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`with_numbers`."""
    digits = features[:, -CHANNELS:].to(torch.int64).unflatten(1, (NUMBERS, DIGITS))
    powers = torch.tensor([BASE**n for n in range(DIGITS)], device=features.device)
    return features[:, :-CHANNELS], (digits * powers).sum(2)
