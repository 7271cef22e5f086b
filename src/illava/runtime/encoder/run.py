"""What the encoder stage knows of one call of the image encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...methods.steps import Units
from ...ops.merging import MergedSegments
from ..cached import Cached
from ..traces import Trace, trace_of


@dataclass
class Observed:
    """What one step observed of a block, over the calls of its attention so far."""

    tokens: list[Tensor] = field(default_factory=list)
    """(n, ...) fp32 of each call, class tokens included."""
    sequences: list[int] | None = None
    """Tokens of the attention sequences that are left for later calls; None where all are alike."""


@dataclass
class BlockState:
    """The state of one block while it runs."""

    observed: dict[str, Observed] = field(default_factory=dict)
    """By the stage of the step: its own in the encoder, and the one after the encoder."""
    size_bias: Tensor | None = None
    """(n,) fp32: the logarithms of the sizes of the tokens that are left for later calls of its attention."""
    shape: torch.Size = field(default_factory=torch.Size)
    """Of the tokens that entered its second norm."""
    merged: Tensor | None = None
    """(..., n', d) x', where a step merged."""
    output: Tensor | None = None
    """(..., n', d) y', what the MLP made of it."""


@dataclass
class EncoderRun:
    """One call of the image encoder: what went in, and what is left of it so far."""

    group: int
    """Tokens per unit."""
    lengths: tuple[int, ...]
    """Units of each segment that are left."""
    grid: Tensor | None = None
    """(pictures, 3) frames, rows and columns in tokens, for packed encoders."""
    video: bool = False
    """Whether it is handed the frames of videos."""
    videos: Tensor | None = None
    """(videos, 3) frames, rows and columns in tokens, where given; ``grid`` may list their frames."""
    prefix: int = 0
    """Class tokens in front of each segment, which are no units."""
    order: Tensor | None = None
    """(U, g) int64: the tokens of each unit among all tokens that are in units, where they do not follow one
    another. From the first merge on the survivors stand in the order of units."""
    history: list[tuple[int, Tensor, tuple[int, ...]]] = field(default_factory=list)
    """(block, kept units as (P,) indices into all units of the run, survivors per segment) of each step; the
    number of blocks stands for a step after the encoder."""
    sizes: dict[int, Tensor] = field(default_factory=dict)
    """Block -> (P,) fp32 how many units each survivor of its step stands for, where the step counted it."""
    seen: Tensor | None = None
    """(U, g, ...) what a step after the encoder observed of the units that entered ``seen_at``."""
    seen_at: int = 0
    resized: Tensor | None = None
    """(P,) int64 raster indices of the units at which those of smaller pictures stand, where the encoder was
    given smaller ones; ``history`` then begins with them, before block 0."""
    full_windows: tuple[int, ...] | None = None
    """Tokens of each attention window of pictures before they were made smaller, where blocks have any."""
    full_blocks: tuple[int, ...] = ()
    """The blocks that have none all the same."""
    boundaries: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Block -> cumulative token counts of its attention sequences without and with merging, packed only."""
    traces: dict[int, Trace] | None = None
    """Block -> what its step did, as in ``history``, where that is asked for."""
    visited: set[int] = field(default_factory=set)
    """The blocks whose steps were asked to choose, whatever they kept."""
    features: int = 0
    """Features that the language model is to get, dropped ones included; 0 where that is not known."""
    marked: int | None = None
    """Features of dropped units among those that the language model is to get, once these are made."""
    mixing: tuple[str, Callable[..., Any], list[int], tuple[Any, ...], dict[str, Any]] | None = None
    """The call that arranged the projected features: name, function, tiles a picture, other arguments."""
    block: BlockState | None = field(default=None, repr=False)
    """The block under way, where it has a step, is observed, or attends with the sizes of tokens."""

    def __post_init__(self) -> None:
        self.full_lengths = self.lengths
        # By number of the merges before.
        self._cached: dict[int, Cached] = {}

    @property
    def kept(self) -> Tensor | None:
        """(P,) int64 indices of the surviving units among all units of the run; None if all survive."""
        return self.history[-1][1] if self.history else None

    def record(self, block: int, merged: MergedSegments, units: Units) -> None:
        """Its ``kept`` indexes the units that were left before; a backward pass may come by again."""
        if self.history and self.history[-1][0] >= block:
            return
        kept, before = merged.kept, self.kept
        if self.traces is not None:
            self.traces[block] = trace_of(merged, units, self.units_before(block))
        self.history.append((block, kept if before is None else before.to(kept.device)[kept], merged.lengths))
        self.lengths = merged.lengths
        if merged.sizes is not None:
            self.sizes[block] = merged.sizes

    def forget(self) -> None:
        """Drop what only the blocks needed: their state, masks and tables cut to the tokens that are left."""
        self.block = None
        self._cached.clear()

    def shrink(self, kept: Tensor, lengths: tuple[int, ...], places: Tensor) -> None:
        """Note that the encoder sees smaller pictures, whose units stand at ``kept``, raster ``places``."""
        self.history.append((-1, kept, lengths))
        self.lengths, self.resized = lengths, places

    @property
    def embedded(self) -> int:
        """Tokens that the encoder began with."""
        return self.group * sum(self.full_lengths if self.resized is None else self.lengths_before(0))

    def sizes_before(self, block: int) -> Tensor | None:
        """(U,) fp32 how many units each stands for that enters ``block``; None where nothing was counted."""
        return next(
            (self.sizes[at] for at, _, _ in reversed(self.history) if at < block and at in self.sizes), None
        )

    def token_sizes(self, block: int) -> Tensor | None:
        """(N,) fp32: the same for each token that enters ``block``, class tokens included."""
        sizes = self.sizes_before(block)
        if sizes is None:
            return None
        sizes = sizes.repeat_interleave(self.group)
        if not self.prefix:
            return sizes
        tiles = sizes.view(len(self.full_lengths), -1)
        return torch.cat([tiles.new_ones(len(tiles), self.prefix), tiles], 1).flatten()

    def by_unit(self, rows: Tensor, block: int) -> Tensor:
        """(N, ...) rows of all tokens that enter ``block``, class tokens included, to (U, g, ...)."""
        if self.prefix:
            tiles = rows.view(len(self.full_lengths), -1, *rows.shape[1:])
            rows = tiles[:, self.prefix :].flatten(0, 1)
        if self.order is not None and self.kept_before(block) is None:
            rows = rows[self.order.to(rows.device).flatten()]
        return rows.reshape(-1, self.group, *rows.shape[1:])

    def seen_by(self, block: int) -> Tensor | None:
        """(U, g, ...) what was observed of the units that enter ``block``, a later one."""
        if self.seen is None:
            return None
        now, then = self.kept_before(block), self.kept_before(self.seen_at)
        if now is None or now is then:
            return self.seen
        if then is not None:
            now = torch.searchsorted(then.to(now.device), now)
        return self.seen[now.to(self.seen.device)]

    def kept_before(self, block: int) -> Tensor | None:
        """(P,) int64 indices of the units that enter ``block``; None if all do."""
        return next((kept for at, kept, _ in reversed(self.history) if at < block), None)

    def units_before(self, block: int) -> Tensor:
        """(P,) int64, likewise, all of them if all do."""
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
        if block in self.boundaries and (merged or self.resized is None):
            lengths: list[int] = self.boundaries[block][merged].diff().tolist()
            return lengths
        if not merged and self.full_windows is not None and block not in self.full_blocks:
            return list(self.full_windows)
        left = self.lengths_before(block) if merged else self.full_lengths
        return [self.prefix + n * self.group for n in left]

    def tokens(self, block: int | None = None) -> Tensor:
        """(P * g,) int64 indices of the tokens that enter ``block``, or survive all, among those in units."""
        kept = self.kept if block is None else self.kept_before(block)
        assert kept is not None
        if self.order is not None:
            return self.order.to(kept.device)[kept].flatten()
        return (kept[:, None] * self.group + torch.arange(self.group, device=kept.device)).flatten()

    def block_state(self) -> BlockState:
        """The state of the block under way; a new one where gradient checkpointing runs a block again, which
        calls no hooks of the block itself."""
        if self.block is None:
            self.block = BlockState()
        return self.block

    def take_observed(self, stage: str, block: int) -> Tensor | None:
        """(U, g, ...) fp32: what the step of ``stage`` observed of the units in the ``block`` under way."""
        observed = None if self.block is None else self.block.observed.pop(stage, None)
        return None if observed is None else self.by_unit(torch.cat(observed.tokens), block)

    def _at(self, block: int) -> Cached:
        return self._cached.setdefault(sum(at < block for at, _, _ in self.history), Cached())

    def mask(self, mask: Tensor, block: int) -> Tensor:
        """(1, 1, N, N) attention mask of all tokens to that of those that enter ``block``."""
        return self._at(block)(mask, lambda: self._at_both_ends(mask, self.tokens(block).to(mask.device)))

    @staticmethod
    def _at_both_ends(mask: Tensor, tokens: Tensor) -> Tensor:
        return mask[:, :, tokens][..., tokens]

    def rotary(self, tables: tuple[Tensor, ...], block: int) -> tuple[Tensor, ...]:
        """(N, ...) rotary tables of all tokens to those of the tokens that enter ``block``."""
        return self._at(block)(
            tables, lambda: tuple(table[self.tokens(block).to(table.device)] for table in tables)
        )

    def sequences(self, cu_seqlens: Tensor, block: int) -> Tensor:
        """Boundaries of all tokens' attention sequences to those in ``block``, without emptied ones."""
        return self._at(block)(cu_seqlens, lambda: self._boundaries(cu_seqlens, block))

    def _boundaries(self, cu_seqlens: Tensor, block: int) -> Tensor:
        alive = torch.zeros(
            sum(self.full_lengths) * self.group + 1, dtype=torch.int64, device=cu_seqlens.device
        )
        alive[self.tokens(block).to(alive.device) + 1] = 1
        return alive.cumsum(0)[cu_seqlens.long()].unique_consecutive().to(cu_seqlens.dtype)
