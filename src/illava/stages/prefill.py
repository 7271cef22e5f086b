"""The state of one pass over a prompt with pictures: which tokens are left at which layer."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .cache import MergedLayer
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


@dataclass
class Prefill:
    """One pass over a prompt with pictures."""

    prompt: Prompt
    padding: Tensor | None
    sequence: Sequence
    cache_layers: list[MergedLayer] | None
    entry: Sequence = field(init=False)
    history: list[tuple[int, Sequence]] = field(default_factory=list)
    """(first layer that sees it, sequence), starting with the entry at layer 0."""

    def __post_init__(self) -> None:
        self.entry = self.sequence
        self.history.append((0, self.sequence))
        self.once = Once()
        self.scores: Tensor | None = None

    @property
    def last(self) -> Tensor:
        """(B,) int64 index, among the tokens that are left, of the last prompt token."""
        return (self.sequence.columns == self.prompt.last[:, None]).int().argmax(1)

    def at(self, layer: int) -> Sequence:
        """The tokens that ``layer`` works on."""
        return next(sequence for first, sequence in reversed(self.history) if first <= layer)
