"""The interface between methods and stages: steps, what they observe, and the plan that holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..ops.marks import propagated
from ..ops.merging import MergedSegments, keep_count
from ..ops.precision import full_precision
from ..ops.scoring import Score, column_scores, last_row_scores, row_scores, unit_scores

Positions = Literal["original", "compact"]
Placement = Literal["own", "first"]
AttentionSource = Literal["before", "itself", "nothing"]


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

    def received(self, score: Score = "exact") -> Tensor:
        """(B, n) fp32: the attention each token receives, averaged over heads, summed over all queries."""
        # Sums, not means: with window attention, a segment's tokens are in windows of different sizes.
        return column_scores(self.query, self.key, self.scaling, score=score, times=self.query.shape[2])

    def by_class(self) -> Tensor:
        """(B, n) fp32: the class token's attention to each token, averaged over heads; for encoders without
        a class token, the attention each token receives."""
        if not self.prefix:
            return self.received()
        device, shape = self.query.device, (len(self.query), 1, 1, self.query.shape[2])
        first = torch.zeros(shape[0], dtype=torch.int64, device=device)
        everything = torch.ones(shape, dtype=torch.bool, device=device)
        return last_row_scores(self.query[:, :, :1], self.key, self.scaling, first, everything)


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

    def by_last(self) -> Tensor:
        """(B, n) fp32: the last prompt token's attention to each token, averaged over heads."""
        last = self.tokens.last
        scores = last_row_scores(self.query, self.key, self.scaling, last, self.mask, self.softcap)
        # The scores cover all keys, including those in the cache.
        return scores[:, -self.query.shape[2] :]

    def by_rows(self, rows: Tensor) -> Tensor:
        """(B, n) fp32: attention to each token, averaged over heads and the queries at ``rows``, (B, n) bool;
        zeros where a prompt has none."""
        scores = row_scores(self.query, self.key, self.scaling, rows, self.mask, self.softcap)
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
    def weights(self) -> Tensor:
        """(U,) fp32: ``sizes``, or ones if no step has recorded them."""
        ones = torch.ones(len(self.vectors), dtype=torch.float32, device=self.vectors.device)
        return ones if self.sizes is None else self.sizes


def reduced(step: Step, units: Units) -> MergedSegments | None:
    """Apply ``step`` to ``units``, propagating NaN and infinity; None if all units are kept.

    In the plain model, attention propagates a non-finite number to every later token. A step must not hide it
    by dropping the unit that holds it, so all survivors of the segment become NaN.
    """
    merged = step.reduce(units)
    if merged is None:
        return None
    return merged._replace(units=propagated(merged.units, units.vectors, units.lengths, merged.lengths))


def final_count(n: int, of: int, keep: float) -> int:
    """Number of units kept of ``n``, in a segment of originally ``of`` units, at a budget of ``keep``."""
    return 0 if n == 0 else min(n, keep_count(of, keep))


RENAMED = {"asks": "attention_source", "weighs": "proportional_attention"}
"""What subclasses of :class:`Step` could set in illava 0.1, and its name since."""


class Step(ABC):
    """A point in the model at which units are reduced. Steps hold no state: checkpointing reruns layers.

    The methods ``reduce``, ``enter``, ``observe_encoder`` and ``observe_llm`` of a subclass always run in
    :func:`illava.ops.precision.full_precision`.
    """

    keep: float
    """Share of the segment's original units left after this step, unless a subclass documents otherwise."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for old, new in RENAMED.items():
            if hasattr(cls, old):
                # Ignored, it would change what is merged.
                raise TypeError(f"{cls.__name__}.{old} is called {new} since illava 0.2; rename it")
        # Wrapped here, so that no subclass has to.
        for name in ("reduce", "enter", "observe_encoder", "observe_llm"):
            if name in cls.__dict__:
                setattr(cls, name, full_precision(cls.__dict__[name]))

    @property
    def keeps_all(self) -> bool:
        """Whether this step keeps all units, and is omitted from the plan."""
        return False

    def count(self, n: int, of: int, grid: tuple[int, int] | None = None) -> int:
        """Number of units left after this step, if ``n`` enter it, in a segment of originally ``of`` units.

        Must be known before the model runs, since costs are predicted from it. ``grid`` is the number of rows
        and columns of the segment, if its units form a grid. The default is round(keep * of), at most ``n``.
        """
        return final_count(n, of, self.keep)

    @abstractmethod
    def reduce(self, units: Units) -> MergedSegments | None:
        """Reduce the units. Returns None if all are kept; outputs are then bit-identical.

        The stages call it through :func:`reduced`.
        """


class EncoderStep(Step):
    """A step between attention and MLP of an encoder block; as :attr:`Plan.projector`, after the encoder."""

    observes: ClassVar[bool] = True
    """Whether the stage calls ``observe_encoder``."""

    reads_input: ClassVar[bool] = False
    """Whether its units have ``entered``; in the encoder only."""
    reads_complexity: ClassVar[bool] = False
    """Whether its units have ``complexity``; in the encoder only."""
    reads_halfway: ClassVar[bool] = False
    """Whether its units have ``halfway``; in the encoder only."""
    reads_pixels: ClassVar[bool] = False
    """Whether its units have ``cues``; in the encoder only."""

    @property
    def proportional_attention(self) -> bool:
        """Whether later blocks add the logarithm of a unit's size to the attention that it receives."""
        return False

    def observe_encoder(self, attention: EncoderAttention) -> Tensor:
        """(B, n, ...) fp32: values for each token, class tokens included; they become :attr:`Units.seen`."""
        raise NotImplementedError


class ProjectorStep(EncoderStep):
    """A step after the encoder. It observes the block whose output the projector receives."""

    last_block: ClassVar[bool] = False
    """Whether it observes the encoder's last block instead."""
    projected: ClassVar[bool] = False
    """Whether its units are the projector's output instead of its input."""


class LlmStep(Step):
    """A step before a layer of the LLM; before layer 0 its units are embeddings, and it observes nothing."""

    attention_source: ClassVar[AttentionSource] = "before"
    """The layer whose attention it observes: the layer "before"; the layer "itself", recomputed on the hidden
    states that enter it; or "nothing"."""
    reads_rotary: bool = False
    """Whether it needs :attr:`Units.rotary`."""

    def enter(self, tokens: Tokens) -> Any:
        """Called once per prefill, on the first step, with the embeddings; all steps get the result as
        ``context``."""
        return None

    def observe_llm(self, attention: LlmAttention, context: Any) -> Tensor:
        """(B, n, ...): values for each token; those of visual tokens become :attr:`Units.seen`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Plan:
    """The schedule of a method on one model: its steps, without those that keep everything."""

    encoder: dict[int, Any] = field(default_factory=dict)
    """Image encoder block (0-based) -> the :class:`EncoderStep` after its attention."""
    llm: dict[int, Any] = field(default_factory=dict)
    """Decoder layer (0-based) -> the :class:`LlmStep` before it."""
    projector: ProjectorStep | None = None
    """The step after the image encoder."""
    pixels: float | None = None
    """Share of units to which each image is resized before the encoder."""
    positions: Positions = "original"
    """Position ids in the LLM: the original ones, or renumbered without gaps."""
    placement: Placement = "own"
    """Placeholders at which survivors of the encoder enter the LLM: their own, or the first of a segment."""
    llm_size_bias: bool = False
    """Whether layers of the LLM add the logarithm of a token's size, also of the encoder, to its logits."""

    def __post_init__(self) -> None:
        for name in ("encoder", "llm"):
            steps = {k: s for k, s in sorted(getattr(self, name).items()) if not s.keeps_all}
            object.__setattr__(self, name, steps)
        if self.projector is not None and self.projector.keeps_all:
            object.__setattr__(self, "projector", None)
        if self.empty:
            object.__setattr__(self, "llm_size_bias", False)
        if self.llm_size_bias and self.placement == "first" and self.before_llm:
            raise ValueError("placement='first' does not carry sizes to the LLM; use proportional='encoder'")

    @property
    def before_llm(self) -> bool:
        """Whether units are reduced before the LLM, so that dropped placeholders are marked."""
        return bool(self.encoder) or self.projector is not None or self.pixels is not None

    @property
    def empty(self) -> bool:
        """Whether there is no step at all."""
        return not self.before_llm and not self.llm
