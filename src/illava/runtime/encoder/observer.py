"""The observations of a step in an encoder block's attention, and the size bias of the attention.

A block may call its attention several times, so both keep their progress in the run's :class:`BlockState`.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from torch import Tensor

from ...methods.steps import EncoderAttention, EncoderStep
from ...ops.size_bias import Shared
from ..attention_tap import AttentionCall, is_flash
from ..passes import Passes
from .block_state import Observed
from .run import EncoderRun


class AttentionObserver:
    """Collects a step's observations of the tokens of one block, over all calls of the block's attention."""

    def __init__(
        self, stage: str, step: EncoderStep, index: int, passes: Passes, prefix: int, config: Any
    ) -> None:
        """``config``: of the encoder, which names its attention implementation."""
        self.stage, self.step, self.index, self.passes, self.prefix = stage, step, index, passes, prefix
        self.config = config

    def __call__(self, call: AttentionCall) -> None:
        query, key, bias = call.query, call.key, call.bias
        run = self.passes.encoder_run
        assert run is not None
        observed = run.block_state().observed
        if not query.shape[2]:
            # A window without tokens.
            return
        if self.stage not in observed:
            observed[self.stage] = Observed(sequences=self._sequences(run))
        collected = observed[self.stage]
        # A packed encoder attends to its sequences in separate calls, or to all of them in one call.
        lengths = [query.shape[2]]
        if collected.sequences is not None:
            lengths = []
            while sum(lengths) < query.shape[2]:
                lengths.append(collected.sequences.pop(0))
        start = 0
        for length, group in groupby(lengths):
            # Consecutive sequences of equal length are batched.
            count = len(list(group))
            part = slice(start, start + count * length)
            q, k = (_split(t[:, :, part], count) for t in (query, key))
            added = None if bias is None else bias[:, 0, 0, part].reshape(-1, length)
            start += count * length
            rows = self.step.observe_encoder(EncoderAttention(q, k, call.scaling, self.prefix, added))
            collected.tokens.append(rows.flatten(0, 1))

    def _sequences(self, run: EncoderRun) -> list[int] | None:
        """Lengths of the attention sequences; None if each call of the attention has sequences of its own."""
        if run.grid is None or (run.has_windows(self.index) and not is_flash(self.config)):
            return None
        return run.sequence_lengths(self.index, merged=True)


def _split(tokens: Tensor, count: int) -> Tensor:
    """(1, H, count * n, h) to (count, H, n, h); unchanged for one sequence, or for a batch."""
    if count == 1:
        return tokens
    return tokens[0].unflatten(1, (count, -1)).transpose(0, 1)


class SizeBias:
    """The logarithms of the sizes of the keys of one block, for each call of its attention."""

    def __init__(self, index: int, passes: Passes) -> None:
        self.index, self.passes = index, passes

    @property
    def shared(self) -> Shared | None:
        """Of the pass; see :class:`~illava.runtime.attention_tap.Bias`."""
        return self.passes.channels

    def __call__(self, key: Tensor) -> Tensor | None:
        run = self.passes.encoder_run
        if run is None:
            return None
        state = run.block_state()
        if state.size_bias is None:
            state.size_bias = run.token_log_sizes(self.index)
            if state.size_bias is None:
                return None
        count = key.shape[0] * key.shape[2]
        bias, state.size_bias = state.size_bias[:count], state.size_bias[count:]
        if not len(state.size_bias):
            state.size_bias = None
        return bias.view(key.shape[0], 1, 1, key.shape[2]).to(key.device)
