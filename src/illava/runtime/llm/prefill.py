"""A prompt with pictures, and which of its tokens are left at which layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ...methods.steps import Tokens, Units
from ...ops.merging import MergedSegments
from ..cache.merged import Expected, MergedLayer
from ..cached import Cached
from ..encoder.run import EncoderRun
from ..traces import Trace, trace_of
from .masks import CachedMasks


@dataclass
class Prompt:
    """A batch of prompts with pictures."""

    runs: Tensor
    """(B, L) int64: number of the run of placeholders a token belongs to, over the batch; -1 for text."""
    lengths: tuple[int, ...]
    """Placeholders in each run."""
    video: Tensor
    """(B, L) bool: which placeholders stand for videos."""
    mixed: bool
    """Whether there are both images and videos."""
    last: Tensor
    """(B,) int64: column of the last prompt token, whose attention scores the visual tokens."""
    padding: Tensor | None
    """(B, L) the model's mask of padding, or None."""
    runs_given: list[EncoderRun]
    """The encoder's runs that made the features the model was handed, pictures before videos."""
    unknown_source: bool
    """Whether it was handed features whose runs are not known."""


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
    cached: Cached = field(default_factory=Cached, repr=False)
    """Masks and tables cut to these tokens, each made once for all layers."""


class Merging(Protocol):
    """Merges before the layers of a prefill: :class:`illava.runtime.llm.merging.LlmMerging`."""

    def layer_arguments(
        self, prefill: Prefill, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the layer at ``index`` is called with."""


@dataclass
class Prefill:
    """The tokens of a prompt with pictures on their way through the LLM."""

    prompt: Prompt
    entry: Sequence
    """The tokens that enter layer 0."""
    cache_layers: list[Any] | None = None
    """The layers of the key/value cache, prepared for merging; None without a cache."""
    depth: int = 0
    """Decoder layers of the LLM: a cache may have more."""
    padded: bool = False
    """Whether the prompt, or what the cache held before, has padding."""
    merging: Merging | None = field(default=None, repr=False)
    """Merges before the layers; None where no token is dropped."""
    history: list[tuple[int, Sequence]] = field(default_factory=list)
    """(first layer that sees it, sequence), starting with the entry at layer 0."""
    cached_masks: CachedMasks | None = None
    """Makes the masks where the cache was filled before."""
    seen: dict[int, Tensor] = field(default_factory=dict)
    """Layer before which tokens go -> (B, n, ...) what its step observed of the tokens there are."""
    positions: Tensor | None = None
    """(B or 1, n) or (3, B, n) of the tokens that entered, where they are renumbered."""
    entering: tuple[int, ...] = ()
    """Visual tokens in each segment that the image encoder left, before any step of the LLM."""
    context: Any = None
    """What the first step returned at the entry."""
    visited: set[int] = field(default_factory=set)
    """The layers before which a step was called, whatever it kept."""
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
        """Record which tokens enter layer 0, and how many of each segment came to a step before it."""
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
        """Record what the step before ``layer`` did, where that is asked for."""
        assert units.tokens is not None
        if self.traces is not None and layer not in self.traces:
            row, index = (units.tokens.runs >= 0).nonzero().T
            places = row * self.prompt.runs.shape[1] + units.tokens.columns[row, index]
            self.traces[layer] = trace_of(merged, units, places)

    def record(self, layer: int, sequence: Sequence) -> None:
        """``layer`` and later ones work on ``sequence``. Known already where the layer runs again."""
        if self.history[-1][0] < layer:
            self.history.append((layer, sequence))
            self.expect()

    def expect(self) -> None:
        """Tell the cache layers which tokens enter them, from the layer on that last changed them."""
        if self.cache_layers is None:
            return
        first, sequence = self.history[-1]
        columns = sequence.columns
        # Of this prompt, whose padding has no columns, and of what the cache held before.
        padded = bool((columns < 0).any()) or self.padded
        columns = columns.where(columns < 0, columns + self.start) if self.start else columns
        expected = Expected(columns, self.prompt.runs.shape[1], len(self.history) - 1, padded)
        for layer in self.cache_layers[first : self.depth]:
            if isinstance(layer, MergedLayer):
                layer.expect(expected)

    def layer_arguments(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What is left of the hidden states, and the tables and masks of these tokens."""
        return None if self.merging is None else self.merging.layer_arguments(self, index, args, kwargs)

    def forget(self) -> None:
        """Drop what only the layers needed."""
        self.seen.clear()
        self.context = self.cached_masks = self.cache_layers = self.merging = None
        for _, sequence in self.history:
            sequence.cached.clear()

    def at(self, layer: int) -> Sequence:
        """The tokens that ``layer`` works on."""
        return next(sequence for first, sequence in reversed(self.history) if first <= layer)
