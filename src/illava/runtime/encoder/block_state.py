"""The state of one block of the image encoder while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Observed:
    """The observations of one step in a block, over the calls of its attention so far."""

    tokens: list[Tensor] = field(default_factory=list)
    """(n, ...) fp32 of each call, class tokens included."""
    sequences: list[int] | None = None
    """Lengths of the attention sequences of later calls; None for batches of equal sequences."""


@dataclass
class BlockState:
    """The state of one block while it runs."""

    observed: dict[str, Observed] = field(default_factory=dict)
    """By the stage of the step: its own in the encoder, and the one after the encoder."""
    size_bias: Tensor | None = None
    """(n,) fp32: the logarithms of the sizes of the tokens of later calls of its attention."""
    shape: torch.Size = field(default_factory=torch.Size)
    """Shape of the input of its second norm."""
    entered: Tensor | None = None
    """(..., n, d) the input of the block, for steps that compare with it."""
    merged: Tensor | None = None
    """(..., n', d) x', if a step merged tokens."""
    output: Tensor | None = None
    """(..., n', d) y', the output of the MLP for x'."""
