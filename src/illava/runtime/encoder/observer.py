"""What a step observes of the attention of an encoder block, collected over all calls that it makes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ...methods.steps import EncoderAttention, EncoderStep


class AttentionObserver:
    """Collects what a step says of the tokens of one block, over however many calls the block makes."""

    def __init__(self, step: EncoderStep, sequences: Callable[[], list[int] | None], prefix: int) -> None:
        self.step, self.sequences, self.prefix = step, sequences, prefix
        self.collected: list[Tensor] = []
        self._lengths: list[int] | None = None

    def clear(self) -> None:
        """Forget what was collected: a block begins."""
        self.collected.clear()

    def __call__(self, query: Tensor, key: Tensor, scaling: float, mask: Any, softcap: float | None) -> None:
        if not self.collected:
            self._lengths = self.sequences()
        # A packed encoder attends to one sequence after the other, or to all at once and keeps them apart.
        here = [query.shape[2]]
        if self._lengths is not None:
            here = []
            while sum(here) < query.shape[2]:
                here.append(self._lengths.pop(0))
        start = 0
        for length, alike in groupby(here):
            # Those of equal length that follow one another in one go.
            count = len(list(alike))
            q, k = (_apart(t[:, :, start : start + count * length], count) for t in (query, key))
            start += count * length
            seen = self.step.observe_encoder(EncoderAttention(q, k, scaling, self.prefix))
            self.collected.append(seen.flatten(0, 1))

    def take(self) -> Tensor:
        """(N, ...) fp32 about all tokens, in the order of the calls; empties the collection."""
        seen = torch.cat(self.collected)
        self.collected.clear()
        return seen


def _apart(tokens: Tensor, count: int) -> Tensor:
    """(1, H, count * n, h) to (count, H, n, h); unchanged where it is one sequence, or a batch of them."""
    if count == 1:
        return tokens
    return tokens[0].unflatten(1, (count, -1)).transpose(0, 1)


class SizeBias:
    """The logarithm of how many tokens each key stands for, call by call of one block."""

    def __init__(self, sizes: Callable[[], Tensor | None]) -> None:
        self.sizes = sizes
        self._left: Tensor | None = None

    def clear(self) -> None:
        """A block begins."""
        self._left = None

    def __call__(self, key: Tensor) -> Tensor | None:
        if self._left is None:
            sizes = self.sizes()
            if sizes is None:
                return None
            self._left = sizes.log()
        count = key.shape[0] * key.shape[2]
        here, self._left = self._left[:count], self._left[count:]
        if not len(self._left):
            self._left = None
        return here.view(key.shape[0], 1, 1, key.shape[2]).to(key.device)
