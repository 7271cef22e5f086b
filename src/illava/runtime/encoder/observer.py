"""What a step observes of the attention of an encoder block, and the sizes that the block attends with.

A block may call its attention several times, so both count in the run's :class:`BlockState`.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from torch import Tensor

from ...methods.steps import EncoderAttention, EncoderStep
from ..passes import Passes
from .run import Observed


class AttentionObserver:
    """Collects what a step observes of the tokens of one block, over all calls of the block's attention."""

    def __init__(self, stage: str, step: EncoderStep, index: int, passes: Passes, prefix: int) -> None:
        self.stage, self.step, self.index, self.passes, self.prefix = stage, step, index, passes, prefix

    def __call__(self, query: Tensor, key: Tensor, scaling: float, mask: Any, softcap: float | None) -> None:
        run = self.passes.encoder_run
        assert run is not None
        observed = run.block_state().observed
        if self.stage not in observed:
            lengths = None if run.grid is None else run.sequence_lengths(self.index, merged=True)
            observed[self.stage] = Observed(sequences=lengths)
        so_far = observed[self.stage]
        # A packed encoder attends to one sequence after the other, or to all at once and keeps them apart.
        here = [query.shape[2]]
        if so_far.sequences is not None:
            here = []
            while sum(here) < query.shape[2]:
                here.append(so_far.sequences.pop(0))
        start = 0
        for length, alike in groupby(here):
            # Those of equal length that follow one another in one go.
            count = len(list(alike))
            q, k = (_apart(t[:, :, start : start + count * length], count) for t in (query, key))
            start += count * length
            rows = self.step.observe_encoder(EncoderAttention(q, k, scaling, self.prefix))
            so_far.tokens.append(rows.flatten(0, 1))


def _apart(tokens: Tensor, count: int) -> Tensor:
    """(1, H, count * n, h) to (count, H, n, h); unchanged where it is one sequence, or a batch of them."""
    if count == 1:
        return tokens
    return tokens[0].unflatten(1, (count, -1)).transpose(0, 1)


class SizeBias:
    """The logarithm of how many tokens each key stands for, call by call of one block."""

    def __init__(self, index: int, passes: Passes) -> None:
        self.index, self.passes = index, passes

    def __call__(self, key: Tensor) -> Tensor | None:
        run = self.passes.encoder_run
        if run is None:
            return None
        state = run.block_state()
        if state.size_bias is None:
            sizes = run.token_sizes(self.index)
            if sizes is None:
                return None
            state.size_bias = sizes.log()
        count = key.shape[0] * key.shape[2]
        here, state.size_bias = state.size_bias[:count], state.size_bias[count:]
        if not len(state.size_bias):
            state.size_bias = None
        return here.view(key.shape[0], 1, 1, key.shape[2]).to(key.device)
