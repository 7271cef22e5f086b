"""The state of one pass over a prompt with pictures: which tokens are left at which layer."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .cache import MergedLayer
from .llm_masks import CachedMasks
from .once import Once
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
    once: Once = field(default_factory=Once, repr=False)
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
    scores: dict[int, Tensor] = field(default_factory=dict)
    """Layer before which tokens merge -> (B, n) scores of the tokens there are."""

    def __post_init__(self) -> None:
        self.history.append((0, self.entry))

    def last(self, layer: int) -> Tensor:
        """(B,) int64 index, among the tokens that ``layer`` works on, of the last prompt token."""
        return (self.at(layer).columns == self.prompt.last[:, None]).int().argmax(1)

    def record(self, layer: int, sequence: Sequence) -> bool:
        """Note what ``layer`` and those behind it work on; False if that is known, from an earlier run."""
        if self.history[-1][0] >= layer:
            return False
        self.history.append((layer, sequence))
        return True

    def forget(self) -> None:
        """Drop what only the layers needed."""
        self.scores.clear()
        self.cache_layers = None
        for _, sequence in self.history:
            sequence.once.clear()

    def at(self, layer: int) -> Sequence:
        """The tokens that ``layer`` works on."""
        return next(sequence for first, sequence in reversed(self.history) if first <= layer)
