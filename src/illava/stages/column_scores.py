"""Column sums of the attention of an encoder block, collected over the calls that the block makes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..scoring import Score, column_scores


class ColumnScores:
    """Collects column sums of the attention of one block, over however many calls the block makes."""

    def __init__(self, score: Score, sequences: Callable[[], list[int] | None]) -> None:
        self.score, self.sequences = score, sequences
        self.parts: list[Tensor] = []
        self._lengths: list[int] | None = None

    def clear(self) -> None:
        """Forget what was collected: a block begins."""
        self.parts.clear()

    def __call__(
        self, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, softcap: float | None
    ) -> None:
        if not self.parts:
            self._lengths = self.sequences()
        # A packed encoder attends to one sequence after the other, or to all at once and keeps them apart.
        here = [query.shape[2]]
        if self._lengths is not None:
            here = []
            while sum(here) < query.shape[2]:
                here.append(self._lengths.pop(0))
        for q, k in zip(query.split(here, dim=2), key.split(here, dim=2), strict=True):
            # Sums, not means: under window attention a segment's tokens sit in windows of different size.
            received = column_scores(q, k, scaling, score=self.score) * q.shape[2]
            self.parts.append(received.flatten())

    def take(self) -> Tensor:
        """(N,) fp32 scores of all tokens, in the order of the calls; empties the collection."""
        scores = torch.cat(self.parts)
        self.parts.clear()
        return scores
