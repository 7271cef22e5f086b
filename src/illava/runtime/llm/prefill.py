"""The state of one pass over a prompt with pictures: which tokens are left at which layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...methods.steps import Tokens, Units
from ...ops.merging import MergedSegments
from ..cache.merged import MergedLayer
from ..cached import Cached
from ..traces import Trace, trace_of
from .masks import CachedMasks
from .prompt import Prompt


@dataclass
class Sequence:
    """The tokens that are left at some point of the prefill."""

    columns: Tensor
    """(B, n) int64 column of each in the full prompt, -1 for padding and filler."""
    entered: Tensor
    """(B, n) int64 index of each among the tokens that entered the first layer, -1 likewise."""
    dropped: int
    """Columns of the full prompt minus n."""
    runs: Tensor
    """(B, n) int64: which segment (run of placeholders) a token belongs to, -1 for text and filler."""
    lengths: tuple[int, ...]
    """Visual tokens left in each segment, over all rows of the batch."""
    once: Cached = field(default_factory=Cached, repr=False)
    """Masks and tables cut to these tokens, each made once for all layers."""


@dataclass
class Prefill:
    """One pass over a prompt with pictures."""

    prompt: Prompt
    entry: Sequence
    cache_layers: list[MergedLayer] | None
    history: list[tuple[int, Sequence]] = field(default_factory=list)
    """(first layer that sees it, sequence), starting with the entry at layer 0."""
    cached: CachedMasks | None = None
    """Makes the masks where the cache was filled before."""
    seen: dict[int, Tensor] = field(default_factory=dict)
    """Layer before which tokens go -> (B, n, ...) what its step observed of the tokens there are."""
    positions: Tensor | None = None
    """(B or 1, n) or (3, B, n) of the tokens that entered, where they are renumbered."""
    entering: tuple[int, ...] = ()
    """Visual tokens in each segment that the image encoder left, before any step of the LLM."""
    context: Any = None
    """What the first step noted at the entry."""
    visited: set[int] = field(default_factory=set)
    """The layers before which steps were asked to choose, whatever they kept."""
    marked: int = 0
    """Placeholders whose features were marked."""
    start: int = 0
    """Tokens that the cache held before, dropped ones counted."""
    traces: dict[int, Trace] | None = None
    """Layer -> what the step before it did, where that is asked for."""

    def __post_init__(self) -> None:
        self.history.append((0, self.entry))
        self.entering = self.entering or self.entry.lengths

    def begin(self, entry: Sequence, entering: tuple[int, ...]) -> None:
        """Note which tokens enter layer 0, and how many of each segment had come to a step before it."""
        self.entry, self.history = entry, [(0, entry)]
        self.entering = entering or entry.lengths

    def last(self, layer: int) -> Tensor:
        """(B,) int64 index, among the tokens that ``layer`` works on, of the last prompt token."""
        return (self.at(layer).columns == self.prompt.last[:, None]).int().argmax(1)

    def tokens(self, layer: int, hidden: Tensor, seen: Tensor | None = None) -> Tokens:
        """The tokens that ``layer`` works on, so far."""
        sequence, device = self.at(layer), hidden.device
        return Tokens(
            hidden,
            sequence.runs.to(device),
            sequence.columns.to(device),
            self.last(layer).to(device),
            seen,
        )

    def trace(self, layer: int, merged: MergedSegments, units: Units) -> None:
        """Note what the step before ``layer`` did, where that is asked for."""
        assert units.tokens is not None
        if self.traces is not None and layer not in self.traces:
            row, index = (units.tokens.runs >= 0).nonzero().T
            places = row * self.prompt.runs.shape[1] + units.tokens.columns[row, index]
            self.traces[layer] = trace_of(merged, units, places)

    def record(self, layer: int, sequence: Sequence) -> bool:
        """Note what ``layer`` and those behind it work on; False if that is known, from an earlier run."""
        if self.history[-1][0] >= layer:
            return False
        self.history.append((layer, sequence))
        return True

    def forget(self) -> None:
        """Drop what only the layers needed."""
        self.seen.clear()
        self.context = self.cached = None
        self.cache_layers = None
        for _, sequence in self.history:
            sequence.once.clear()

    def at(self, layer: int) -> Sequence:
        """The tokens that ``layer`` works on."""
        return next(sequence for first, sequence in reversed(self.history) if first <= layer)
