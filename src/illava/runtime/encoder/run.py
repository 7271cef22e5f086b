"""The state of one call of the image encoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ...methods.steps import Units
from ...ops.merging import MergedSegments
from ...ops.transfers import upload
from ..cached import Cached
from ..traces import Trace, trace_of
from .block_state import BlockState


@dataclass
class EncoderRun:
    """One call of the image encoder: its input units, and those that remain after each step."""

    group: int
    """Tokens per unit."""
    lengths: tuple[int, ...]
    """Remaining units of each segment."""
    grid: Tensor | None = None
    """(pictures, 3) frames, rows and columns in tokens, for packed encoders."""
    video: bool = False
    """Whether its input is frames of videos."""
    videos: Tensor | None = None
    """(videos, 3) frames, rows and columns in tokens, if known; ``grid`` may list frames as pictures."""
    prefix: int = 0
    """Class tokens before each segment, which are not part of units."""
    order: Tensor | None = None
    """(U, g) int64: indices of the tokens of each unit among all tokens in units, if these are not
    consecutive. After the first merge the survivors are in the order of units."""
    shape: tuple[int, int] | None = None
    """Rows and columns of units in each segment of a batched encoder, if they need not be a square."""
    covered: tuple[float, float] = (1.0, 1.0)
    """The shares of a segment's width and height that its units cover; the rest is less than a patch."""
    history: list[tuple[int, Tensor, tuple[int, ...]]] = field(default_factory=list)
    """(block, kept units as (P,) indices into all units of the run, survivors per segment) of each step. A
    step after the encoder has the number of blocks as its block."""
    sizes: dict[int, Tensor] = field(default_factory=dict)
    """Block -> (P,) fp32 number of units merged into each survivor of its step, if the step records sizes."""
    mixed: dict[int, Tensor] = field(default_factory=dict)
    """Block -> (P * g,) int64 indices of the survivors' tokens, where these came from several units."""
    seen: Tensor | None = None
    """(U, g, ...) observations of a step after the encoder, for the units that entered block ``seen_at``."""
    seen_at: int = 0
    cues: Tensor | None = None
    """(U,) fp32 cues of the pixels of all units, for steps that read them."""
    complexity: tuple[float, ...] | None = None
    """Of the pixels of each segment, for steps that read it."""
    resized: Tensor | None = None
    """(P,) int64 raster indices in the full-size grids of the units of resized pictures, or None. ``history``
    then starts with these units, before block 0."""
    full_windows: tuple[int, ...] | None = None
    """Tokens of each attention window of resized pictures at full size; None without window attention."""
    full_blocks: tuple[int, ...] = ()
    """Blocks without window attention in an encoder that has it."""
    pictures: list[list[int]] = field(default_factory=list)
    """``grid`` on the host."""
    boundaries: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Block -> cumulative token counts of its attention sequences without and with merging, packed only."""
    in_segments: set[int] = field(default_factory=set)
    """Blocks whose attention sequences are the segments, so that the host knows their lengths."""
    given_boundaries: bool = False
    """Whether the caller passed boundaries of its own to the encoder."""
    traces: dict[int, Trace] | None = None
    """Block -> record of its step, with blocks as in ``history``; None without tracing."""
    visited: set[int] = field(default_factory=set)
    """The blocks whose steps were called, even if they kept all units."""
    features: int = 0
    """Features for the language model, including dropped ones; 0 if unknown."""
    marked: int | Tensor | None = None
    """How many of these features belong to dropped units; None before they are computed. A () int64 tensor if
    the number depends on values, until the host reads it at the entry of the language model."""
    mixing: tuple[str, Callable[..., Any], list[int], tuple[Any, ...], dict[str, Any]] | None = None
    """The call that arranged the projected features: name, function, tiles per picture, other arguments."""
    block: BlockState | None = field(default=None, repr=False)
    """The state of the current block, if it has a step, is observed, or uses proportional attention."""

    def __post_init__(self) -> None:
        self.full_lengths = self.lengths
        # By the number of merges before.
        self._cached: dict[int, Cached] = {}

    @property
    def rows_and_columns(self) -> tuple[int, int]:
        """Rows and columns of units in each segment of a batched encoder."""
        side = math.isqrt(self.full_lengths[0])
        return (side, side) if self.shape is None else self.shape

    @property
    def kept(self) -> Tensor | None:
        """(P,) int64 indices of the surviving units among all units of the run; None if all survive."""
        return self.history[-1][1] if self.history else None

    def record(self, block: int, merged: MergedSegments, units: Units) -> None:
        """Record a step; ``merged.kept`` indexes the units that entered it. Ignored in reruns."""
        if self.history and self.history[-1][0] >= block:
            return
        kept, before = merged.kept, self.kept
        if merged.tokens is not None or self.mixed:
            tokens = self._tokens_of(kept) if merged.tokens is None else merged.tokens
            self.mixed[block] = tokens if before is None else self.tokens().to(kept.device)[tokens]
        if self.traces is not None:
            self.traces[block] = trace_of(merged, units, self.units_before(block))
        self.history.append((block, kept if before is None else before.to(kept.device)[kept], merged.lengths))
        self.lengths = merged.lengths
        if merged.sizes is not None:
            self.sizes[block] = merged.sizes

    def forget(self) -> None:
        """Delete what only the blocks need: their state, and masks and tables of the remaining tokens."""
        self.block = None
        self._cached.clear()

    def shrink(self, kept: Tensor, lengths: tuple[int, ...], places: Tensor) -> None:
        """Record that the pictures were resized.

        Their units take the indices ``kept`` among all units, or ``places`` in raster order.
        """
        self.history.append((-1, kept, lengths))
        self.lengths, self.resized = lengths, places

    @property
    def embedded(self) -> int:
        """Number of tokens that the encoder embedded."""
        return self.group * sum(self.full_lengths if self.resized is None else self.lengths_before(0))

    def sizes_before(self, block: int) -> Tensor | None:
        """(U,) fp32 sizes of the units that enter ``block``; None if no step has recorded sizes."""
        return next(
            (self.sizes[at] for at, _, _ in reversed(self.history) if at < block and at in self.sizes), None
        )

    def token_log_sizes(self, block: int) -> Tensor | None:
        """(N,) fp32 logarithms of the sizes of the tokens that enter ``block``, class tokens included."""
        sizes = self.sizes_before(block)
        return None if sizes is None else self._at(block)(sizes, lambda: self._token_logs(sizes))

    def _token_logs(self, sizes: Tensor) -> Tensor:
        tokens = sizes.log().repeat_interleave(self.group)
        if not self.prefix:
            return tokens
        tiles = tokens.view(len(self.full_lengths), -1)
        return torch.cat([tiles.new_zeros(len(tiles), self.prefix), tiles], 1).flatten()

    def by_unit(self, rows: Tensor, block: int) -> Tensor:
        """(N, ...) rows of all tokens that enter ``block``, class tokens included, to (U, g, ...)."""
        if self.prefix:
            tiles = rows.view(len(self.full_lengths), -1, *rows.shape[1:])
            rows = tiles[:, self.prefix :].flatten(0, 1)
        if self.order is not None and self.kept_before(block) is None:
            rows = rows[self.order.to(rows.device).flatten()]
        return rows.reshape(-1, self.group, *rows.shape[1:])

    def vectors(self, x: Tensor, block: int) -> Tensor:
        """(U, g * d) units of the hidden states (..., n, d) of all tokens that enter ``block``."""
        return self.by_unit(x.reshape(-1, x.shape[-1]), block).flatten(1)

    def take_entered(self, block: int) -> Tensor:
        """(U, g * d) the units that entered ``block``, whose state no longer holds them."""
        state = self.block_state()
        assert state.entered is not None
        entered, state.entered = state.entered, None
        return self.vectors(entered, block)

    def cues_before(self, block: int) -> Tensor | None:
        """(U,) fp32 cues of the units that enter ``block``; None if no step reads pixels."""
        kept = self.kept_before(block)
        return self.cues if kept is None or self.cues is None else self.cues[kept.to(self.cues.device)]

    def seen_by(self, block: int) -> Tensor | None:
        """(U, g, ...) the observations in ``seen`` for the units that enter ``block``, a later one."""
        if self.seen is None:
            return None
        kept, kept_then = self.kept_before(block), self.kept_before(self.seen_at)
        if kept is None or kept is kept_then:
            return self.seen
        if kept_then is not None:
            kept = torch.searchsorted(kept_then.to(kept.device), kept)
        return self.seen[kept.to(self.seen.device)]

    def kept_before(self, block: int) -> Tensor | None:
        """(P,) int64 indices of the units that enter ``block``; None if all do."""
        return next((kept for at, kept, _ in reversed(self.history) if at < block), None)

    def units_before(self, block: int) -> Tensor:
        """(P,) int64 indices of the units that enter ``block``, even if all do."""
        kept = self.kept_before(block)
        return torch.arange(sum(self.full_lengths)) if kept is None else kept

    def lengths_before(self, block: int) -> tuple[int, ...]:
        """Units of each segment that enter ``block``."""
        return next((n for at, _, n in reversed(self.history) if at < block), self.full_lengths)

    def kept_after(self, block: int) -> Tensor:
        """(P,) int64 indices, on the CPU, of the units that survive all steps up to ``block``."""
        kept = next((kept for at, kept, _ in reversed(self.history) if at <= block), None)
        return torch.arange(sum(self.full_lengths)) if kept is None else kept.cpu()

    def sequence_lengths(self, block: int, *, merged: bool) -> list[int]:
        """Tokens of each attention sequence in ``block``."""
        if self.has_windows(block) and (merged or self.resized is None):
            # Windows that lost all of their tokens have no attention.
            return [n for n in self.boundaries[block][merged].diff().tolist() if n]
        if not merged and self.full_windows is not None and block not in self.full_blocks:
            return list(self.full_windows)
        left = self.lengths_before(block) if merged else self.full_lengths
        return [self.prefix + n * self.group for n in left]

    def has_windows(self, block: int) -> bool:
        """Whether attention sequences of ``block`` are other than the segments."""
        return block in self.boundaries and block not in self.in_segments

    def tokens(self, block: int | None = None) -> Tensor:
        """(P * g,) int64 indices, among all tokens in units, of those that enter ``block`` or, without it, of
        those that survive all steps."""
        kept = self.kept if block is None else self.kept_before(block)
        assert kept is not None
        if mixed := [tokens for at, tokens in self.mixed.items() if block is None or at < block]:
            return mixed[-1]
        if self.order is not None:
            return self.order.to(kept.device)[kept].flatten()
        return self._tokens_of(kept)

    def _tokens_of(self, units: Tensor) -> Tensor:
        return (units[:, None] * self.group + torch.arange(self.group, device=units.device)).flatten()

    def block_state(self) -> BlockState:
        """The state of the current block.

        It is created here when gradient checkpointing reruns a block, since the hooks of the block itself are
        not called then.
        """
        if self.block is None:
            self.block = BlockState()
        return self.block

    def take_observed(self, stage: str, block: int) -> Tensor | None:
        """(U, g, ...) fp32: remove and return the observations of the step of ``stage`` in ``block``."""
        observed = None if self.block is None else self.block.observed.pop(stage, None)
        return None if observed is None else self.by_unit(torch.cat(observed.tokens), block)

    def _at(self, block: int) -> Cached:
        return self._cached.setdefault(sum(at < block for at, _, _ in self.history), Cached())

    def mask(self, mask: Tensor, block: int) -> Tensor:
        """(1, 1, N, N) attention mask of all tokens to the mask of those that enter ``block``."""
        return self._at(block)(mask, lambda: self._rows_and_columns(mask, self.tokens(block).to(mask.device)))

    @staticmethod
    def _rows_and_columns(mask: Tensor, tokens: Tensor) -> Tensor:
        return mask[:, :, tokens][..., tokens]

    def rotary(self, tables: tuple[Tensor, ...], block: int) -> tuple[Tensor, ...]:
        """(N, ...) rotary tables of all tokens to those of the tokens that enter ``block``."""
        return self._at(block)(
            tables, lambda: tuple(table[self.tokens(block).to(table.device)] for table in tables)
        )

    def are_segments(self, cu_seqlens: Tensor) -> bool:
        """Whether boundaries are those of the segments.

        A window lies in one segment and each segment has a window, so equal numbers mean equal boundaries.
        """
        return not self.given_boundaries and len(cu_seqlens) == len(self.full_lengths) + 1

    def sequences(self, cu_seqlens: Tensor, block: int, *, flash: bool) -> Tensor:
        """Boundaries of the attention sequences of all tokens to those in ``block``.

        For ``flash`` attention they are on the device. A window that lost all of its tokens remains as an
        empty one, since the host does not know how many did. Other attention is computed sequence by
        sequence, for which the model reads the lengths in every block. So these boundaries are on the CPU,
        and without empty windows.
        """
        return self._at(block)(cu_seqlens, lambda: self._boundaries(cu_seqlens, block, flash))

    def _boundaries(self, cu_seqlens: Tensor, block: int, flash: bool) -> Tensor:
        if self.are_segments(cu_seqlens):
            lengths = [n * self.group for n in self.lengths_before(block) if n]
            device = cu_seqlens.device if flash else torch.device("cpu")
            return upload([0, *accumulate(lengths)], device, cu_seqlens.dtype)
        alive = torch.zeros(
            sum(self.full_lengths) * self.group + 1, dtype=torch.int64, device=cu_seqlens.device
        )
        alive.index_fill_(0, self.tokens(block).to(alive.device) + 1, 1)
        ends = alive.cumsum(0)[cu_seqlens.long()].to(cu_seqlens.dtype)
        return ends if flash else ends.cpu().unique_consecutive()
