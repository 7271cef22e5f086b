"""Pictures of noise in the shape in which a family's processor hands them over, for models without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TEXT = range(3, 43)
"""Token ids that are words in every vocabulary."""


@dataclass(frozen=True)
class NoisePictures:
    """Pictures, or a video, as one prompt holds them."""

    values: dict[str, Tensor]
    """What the encoder gets, all pictures one after another."""
    runs: Sequence[list[int]]
    """Token ids that stand for each picture or video, marks included."""


def text_ids(count: int) -> list[int]:
    """Token ids of a text."""
    return [TEXT[i % len(TEXT)] for i in range(count)]


def noise(*shape: int) -> Tensor:
    """Normal numbers, the same ones for the same shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))
