"""A prompt with pictures, and its remaining tokens at each layer."""

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
    """(B, L) int64: the run of placeholders that a token belongs to, numbered over the batch; -1 for text."""
    lengths: tuple[int, ...]
    """Placeholders in each run."""
    video: Tensor
    """(B, L) bool: which tokens are placeholders of videos."""
    mixed: bool
    """Whether there are both images and videos."""
    last: Tensor
    """(B,) int64: column of the last prompt token, whose attention scores the visual tokens."""
    padding: Tensor | None
    """(B, L) the model's padding mask, or None."""
    runs_given: list[EncoderRun]
    """The encoder runs of the features that were passed to the model, pictures before videos."""
    unknown_source: bool
    """Whether the runs of some features passed to the model are unknown."""
    rows: tuple[int, ...] = ()
    """The row of the batch of each run."""
    real: tuple[int, ...] = ()
    """Placeholders of each run that are not padding."""
    text: tuple[int, ...] = ()
    """Text tokens of each row that are not padding."""
    after: tuple[int, ...] = ()
    """Padding after the last token of each row."""
    filled: bool = False
    """Whether any token of the prompt is padding."""
    padded: bool = False
    """Whether any of these or of the tokens cached earlier is padding."""
    ends_with_picture: bool = False
    """Whether the last token of any row is a placeholder."""
    fixed: Tensor | None = None
    """(B, L) bool: the placeholders that are never dropped, see :mod:`illava.runtime.llm.fixed`; None if
    there are none."""
    fixed_lengths: tuple[int, ...] = ()
    """How many of them each run has."""

    def fixed_at(self, columns: Tensor) -> Tensor | None:
        """(B, n) bool: which of the tokens at (B, n) ``columns``, -1 for filler, are fixed placeholders."""
        if self.fixed is None:
            return None
        fixed = self.fixed.to(columns.device)
        return fixed.gather(1, columns.clamp(min=0)) & (columns >= 0)

    def free(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """``lengths`` placeholders of each run without the fixed ones."""
        return self._plus(lengths, -1)

    def with_fixed(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """The opposite of :meth:`free`."""
        return self._plus(lengths, 1)

    def _plus(self, lengths: tuple[int, ...], sign: int) -> tuple[int, ...]:
        if self.fixed is None:
            return lengths
        return tuple(n + sign * fixed for n, fixed in zip(lengths, self.fixed_lengths, strict=True))

    def width(self, lengths: tuple[int, ...]) -> tuple[int, bool]:
        """Columns that are left with ``lengths`` placeholders in each run, and whether any of them is filler.

        From numbers on the host, so that no table of remaining tokens has a size that only the device knows.
        """
        tokens = list(self.text)
        for row, count in zip(self.rows, lengths, strict=True):
            tokens[row] += count
        width = max(count + after for count, after in zip(tokens, self.after, strict=True))
        # Placeholders in padding count as tokens until they are dropped.
        return width, any(count < width for count in tokens) or self.real != self.lengths


@dataclass
class Sequence:
    """The remaining tokens at some point of the prefill."""

    columns: Tensor
    """(B, n) int64 column of each token in the full prompt, -1 for padding and filler."""
    entered: Tensor
    """(B, n) int64 index of each token among those that entered layer 0, -1 for padding and filler."""
    dropped: int
    """Columns of the full prompt minus n."""
    runs: Tensor
    """(B, n) int64: the segment (run of placeholders) that a token belongs to, -1 for text and filler."""
    lengths: tuple[int, ...]
    """Visual tokens left in each segment, over all rows of the batch."""
    padded: bool = False
    """Whether any token may be padding or filler."""
    log_sizes: Tensor | None = None
    """(B, n) fp32: the logarithm of each token's size, 0 for text, padding and filler; None if no step
    recorded sizes, or if the LLM does not use them."""
    cached: Cached = field(default_factory=Cached, repr=False)
    """Masks and tables of these tokens, each made once for all layers."""


class Merging(Protocol):
    """Merges before the layers of a prefill: :class:`illava.runtime.llm.merging.LlmMerging`."""

    def layer_arguments(
        self, prefill: Prefill, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the layer at ``index``."""


@dataclass
class Prefill:
    """The tokens of a prompt with pictures on their way through the LLM."""

    prompt: Prompt
    entry: Sequence
    """The tokens that enter layer 0."""
    cache_layers: list[Any] | None = None
    """The layers of the KV cache, prepared for merging; None without a cache."""
    depth: int = 0
    """Decoder layers of the LLM; a cache may have more."""
    padded: bool = False
    """Whether the prompt, or any token cached earlier, is padding."""
    merging: Merging | None = field(default=None, repr=False)
    """Merges before the layers; None if no token is dropped."""
    history: list[tuple[int, Sequence]] = field(default_factory=list)
    """(first layer that receives the sequence, sequence), starting with the entry at layer 0."""
    cached_masks: CachedMasks | None = None
    """Makes the masks if the cache was filled before."""
    seen: dict[int, Tensor] = field(default_factory=dict)
    """Layer with a step before it -> (B, n, ...) observations of the step for all tokens."""
    positions: Tensor | None = None
    """(B or 1, n) or (3, B, n) position ids of the tokens that entered, if positions are renumbered."""
    entering: tuple[int, ...] = ()
    """Visual tokens of each segment left after the encoder stage, before any step of the LLM."""
    context: Any = None
    """The value returned by the first step's ``enter``."""
    visited: set[int] = field(default_factory=set)
    """The layers before which a step was called, even if it kept all tokens."""
    marked: int = 0
    """Placeholders whose features were marked."""
    start: int = 0
    """Tokens that the cache held before, including dropped ones."""
    traces: dict[int, Trace] | None = None
    """Layer -> record of the step before it; None without tracing."""

    def __post_init__(self) -> None:
        self.history.append((0, self.entry))
        self.entering = self.entering or self.entry.lengths

    def begin(self, entry: Sequence, entering: tuple[int, ...]) -> None:
        """Record which tokens enter layer 0, and how many of each segment entered a step before it."""
        self.entry, self.history = entry, [(0, entry)]
        self.entering = entering or entry.lengths

    def last(self, layer: int) -> Tensor:
        """(B,) int64 index of the last prompt token among the input tokens of ``layer``."""
        sequence, last = self.at(layer), self.prompt.last
        return sequence.cached(last, lambda: (sequence.columns == last[:, None]).int().argmax(1))

    def tokens(self, layer: int, hidden: Tensor, seen: Tensor | None = None) -> Tokens:
        """The input tokens of ``layer``, as far as is known."""
        sequence, device = self.at(layer), hidden.device
        fixed = self.fixed(sequence)
        return Tokens(
            hidden,
            self.free_runs(sequence).to(device),
            sequence.columns.to(device),
            self.last(layer).to(device),
            seen,
            None if fixed is None else fixed.to(device),
        )

    def fixed(self, sequence: Sequence) -> Tensor | None:
        """(B, n) bool: which tokens of ``sequence`` are placeholders that are never dropped."""
        if self.prompt.fixed is None:
            return None
        return sequence.cached(self.prompt.fixed, lambda: self.prompt.fixed_at(sequence.columns))

    def free_runs(self, sequence: Sequence) -> Tensor:
        """(B, n) int64: the runs of ``sequence``, -1 also for placeholders that are never dropped."""
        fixed, runs = self.fixed(sequence), sequence.runs
        return runs if fixed is None else runs.masked_fill(fixed.to(runs.device), -1)

    def trace(self, layer: int, merged: MergedSegments, units: Units) -> None:
        """Record the step before ``layer``, if tracing is on."""
        assert units.tokens is not None
        if self.traces is not None and layer not in self.traces:
            row, index = (units.tokens.runs >= 0).nonzero().T
            places = row * self.prompt.runs.shape[1] + units.tokens.columns[row, index]
            self.traces[layer] = trace_of(merged, units, places)

    def record(self, layer: int, sequence: Sequence) -> None:
        """Record that ``sequence`` is the input of ``layer`` and later ones. Ignored in reruns."""
        if self.history[-1][0] < layer:
            self.history.append((layer, sequence))
            self.expect()

    def expect(self) -> None:
        """Announce the remaining tokens to the cache layers, starting at the layer of the last merge."""
        if self.cache_layers is None:
            return
        first, sequence = self.history[-1]
        columns = sequence.columns
        # Padding of this prompt has no columns; ``self.padded`` includes tokens cached earlier.
        padded = sequence.padded or self.padded
        columns = columns.where(columns < 0, columns + self.start) if self.start else columns
        length, group = self.prompt.runs.shape[1], len(self.history) - 1
        expected = Expected(columns, length, group, padded, sequence.log_sizes)
        for layer in self.cache_layers[first : self.depth]:
            if isinstance(layer, MergedLayer):
                layer.expect(expected)

    def layer_arguments(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The remaining hidden states, with their rotary tables and masks."""
        return None if self.merging is None else self.merging.layer_arguments(self, index, args, kwargs)

    def forget(self) -> None:
        """Delete what only the layers need."""
        self.seen.clear()
        self.context = self.cached_masks = self.cache_layers = self.merging = None
        for _, sequence in self.history:
            sequence.cached.clear()

    def at(self, layer: int) -> Sequence:
        """The input tokens of ``layer``."""
        return next(sequence for first, sequence in reversed(self.history) if first <= layer)
