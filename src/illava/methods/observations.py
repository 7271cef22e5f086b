"""What steps are given: the attention that they observe, and the units that they reduce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.masks import places_of
from ..ops.merging import keep_count
from ..ops.scoring import Score, column_scores, last_row_scores, row_scores, unit_scores
from ..ops.transfers import upload


@dataclass(frozen=True)
class EncoderAttention:
    """Queries and keys of one block of the image encoder, of attention sequences of equal length."""

    query: Tensor
    """(B, H, n, h), rotary applied."""
    key: Tensor
    """(B, H_kv, n, h)."""
    scaling: float
    prefix: int
    """Class tokens in front of each sequence."""
    bias: Tensor | None = None
    """(B, n) fp32 that the block adds to the logits of each key, the logarithms of sizes; None: nothing. It
    counts in the attention weights below, and is no part of ``key``."""

    def received(self, score: Score = "exact") -> Tensor:
        """(B, n) fp32: the attention each token receives, averaged over heads, summed over all queries."""
        # Sums, not means: with window attention, a segment's tokens are in windows of different sizes.
        times = self.query.shape[2]
        return column_scores(self.query, self.key, self.scaling, score=score, times=times, bias=self.bias)

    def by_class(self) -> Tensor:
        """(B, n) fp32: the class token's attention to each token, averaged over heads; for encoders without
        a class token, the attention each token receives."""
        if not self.prefix:
            return self.received()
        device, shape = self.query.device, (len(self.query), 1, 1, self.query.shape[2])
        first = torch.zeros(shape[0], dtype=torch.int64, device=device)
        everything = torch.ones(shape, dtype=torch.bool, device=device)
        query = self.query[:, :, :1]
        return last_row_scores(query, self.key, self.scaling, first, everything, bias=self.bias)


@dataclass(frozen=True)
class Tokens:
    """All tokens, visual and text, at some point of a prefill in the LLM."""

    hidden: Tensor
    """(B, n, d)."""
    runs: Tensor
    """(B, n) int64: the segment (run of placeholders) that a token belongs to; -1 for text, filler and
    ``fixed`` tokens."""
    columns: Tensor
    """(B, n) int64: column of each token in the full prompt, -1 for padding and filler."""
    last: Tensor
    """(B,) int64: index of the last prompt token."""
    seen: Tensor | None = None
    """(B, n, ...) output of the step's ``observe_llm`` for each token, text included."""
    fixed: Tensor | None = None
    """(B, n) bool: which tokens are features of class tokens and registers. They belong to no run and are
    never dropped. None if there are none."""

    @property
    def text(self) -> Tensor:
        """(B, n) bool: which tokens are text."""
        text = (self.runs < 0) & (self.columns >= 0)
        return text if self.fixed is None else text & ~self.fixed


@dataclass(frozen=True)
class LlmAttention:
    """Queries and keys of one layer of the LLM in a prefill."""

    query: Tensor
    """(B, H, n, h), rotary applied."""
    key: Tensor
    """(B, H_kv, k, h), cached keys first."""
    scaling: float
    mask: Tensor | None
    """None, (B, k) bool key padding, or (B, H or 1, n, k) boolean or additive."""
    softcap: float | None
    tokens: Tokens
    """The tokens of the queries; with ``hidden`` only where the step observes its own layer ("itself")."""
    value: Tensor
    """(B, H_kv, k, h'), cached values first."""
    bias: Tensor | None = None
    """(B, k) fp32 that the layer adds to the logits of each key, as in :class:`EncoderAttention`."""

    def by_last(self) -> Tensor:
        """(B, n) fp32: the last prompt token's attention to each token, averaged over heads."""
        last = self.tokens.last
        scores = last_row_scores(self.query, self.key, self.scaling, last, self.mask, self.softcap, self.bias)
        # The scores cover all keys, including those in the cache.
        return scores[:, -self.query.shape[2] :]

    def by_rows(self, rows: Tensor) -> Tensor:
        """(B, n) fp32: attention to each token, averaged over heads and the queries at ``rows``, (B, n) bool;
        zeros where a prompt has none."""
        scores = row_scores(self.query, self.key, self.scaling, rows, self.mask, self.softcap, self.bias)
        return scores[:, -self.query.shape[2] :]

    @property
    def keys(self) -> Tensor:
        """(B, H_kv, n, h): the keys of these tokens, without cached ones."""
        return self.key[:, :, -self.query.shape[2] :]


@dataclass(frozen=True)
class Units:
    """The units that enter a step, one segment after the other."""

    vectors: Tensor
    """(U, D): in the encoder, units of g tokens concatenated; in the LLM, hidden states of visual tokens."""
    seen: Tensor | None
    """(U, ...) output of the step's ``observe_llm`` for each visual token, or (U, g, ...) output of its
    ``observe_encoder`` for each token of a unit; None for a step that observes nothing."""
    lengths: tuple[int, ...]
    """Units of each segment."""
    full: tuple[int, ...]
    """Units that each segment had before any step."""
    sizes: Tensor | None = None
    """(U,) fp32: number of original units merged into each, after steps that record it."""
    shapes: tuple[tuple[int, int], ...] | None = None
    """Rows and columns of each segment, if all of its units are present and in raster order."""
    tokens: Tokens | None = None
    """In the LLM: all tokens; ``vectors`` are those of the visual ones, row by row."""
    context: Any = None
    """In the LLM: the value returned by the first step's ``enter``."""
    entered: Tensor | None = None
    """(U, D) the same units as they entered the encoder block; with ``reads_input``."""
    complexity: tuple[float, ...] | None = None
    """:func:`illava.ops.pixels.pixel_complexity` of each segment; with ``reads_complexity``."""
    cues: Tensor | None = None
    """(U,) fp32 :func:`illava.ops.pixels.pixel_cues`, the mean over each unit; with ``reads_pixels``."""
    halfway: Tensor | None = None
    """(U, D) the same units as they entered block (k + 1) // 2 of the encoder, at half the depth of a step in
    block k, without units that were merged into them since; with ``reads_halfway``."""
    rotary: Tensor | None = None
    """(U, 2) fp32: in the LLM, if the step reads it, the mean cosine and sine of a token's rotary table."""

    @property
    def scores(self) -> Tensor:
        """(U,) fp32: the observation as one number per unit, the mean over its tokens."""
        assert self.seen is not None
        return self.seen if self.seen.dim() == 1 else unit_scores(self.seen.flatten(), self.seen.shape[1])

    def counts(self, keep: float) -> tuple[int, ...]:
        """Units of each segment to keep, for a share ``keep`` of the segment's original units."""
        return tuple(final_count(n, of, keep) for n, of in zip(self.lengths, self.full, strict=True))

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """In the LLM: (S,) int64 row of the batch of each segment, and index of its last unit in the row."""
        assert self.tokens is not None
        runs = self.tokens.runs
        ends = upload(torch.tensor(self.lengths).cumsum(0).sub(1).clamp(min=0), runs.device)
        places = places_of((runs >= 0).flatten(), sum(self.lengths))[ends]
        return places // runs.shape[1], places % runs.shape[1]

    @property
    def weights(self) -> Tensor:
        """(U,) fp32: ``sizes``, or ones if no step has recorded them."""
        ones = torch.ones(len(self.vectors), dtype=torch.float32, device=self.vectors.device)
        return ones if self.sizes is None else self.sizes


def final_count(n: int, of: int, keep: float) -> int:
    """Number of units kept of ``n``, in a segment of originally ``of`` units, at a budget of ``keep``."""
    return 0 if n == 0 else min(n, keep_count(of, keep))
