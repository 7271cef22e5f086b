"""Random pictures in the format of a family's processor, for benchmarks without a processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TEXT = range(3, 43)
"""Token ids that are text in every vocabulary."""


@dataclass(frozen=True)
class NoisePictures:
    """The pictures, or the video, of one prompt."""

    values: dict[str, Tensor]
    """Arguments of the model, all pictures concatenated."""
    runs: Sequence[list[int]]
    """Token ids of each picture or video, special tokens included."""


def text_ids(count: int) -> list[int]:
    """Token ids of a text."""
    return [TEXT[i % len(TEXT)] for i in range(count)]


def noise(*shape: int) -> Tensor:
    """Normally distributed numbers, always the same for one shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))
