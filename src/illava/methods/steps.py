"""The interface between methods and stages: steps, and the plan that holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..ops.marks import propagated
from ..ops.merging import MergedSegments
from ..ops.precision import full_precision
from .observations import EncoderAttention as EncoderAttention
from .observations import LlmAttention as LlmAttention
from .observations import Tokens as Tokens
from .observations import Units as Units
from .observations import final_count as final_count

Positions = Literal["original", "compact"]
Placement = Literal["own", "first"]
AttentionSource = Literal["before", "itself", "nothing"]


def reduced(step: Step, units: Units) -> MergedSegments | None:
    """Apply ``step`` to ``units``, propagating NaN and infinity; None if all units are kept.

    In the plain model, attention propagates a non-finite number to every later token. A step must not hide it
    by dropping the unit that holds it, so all survivors of the segment become NaN.
    """
    merged = step.reduce(units)
    if merged is None:
        return None
    return merged._replace(units=propagated(merged.units, units.vectors, units.lengths, merged.lengths))


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

    @property
    def absorbs_all(self) -> bool:
        """Whether every dropped unit is merged into a survivor, so that gradients reach all units."""
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
    def dropping(self) -> str | None:
        """The first place where units are dropped that no survivor absorbs; None if there is none."""
        places = [(f"encoder block {block}", step) for block, step in self.encoder.items()]
        places += [] if self.projector is None else [("the projector", self.projector)]
        places += [(f"LLM layer {layer}", step) for layer, step in self.llm.items()]
        return next((place for place, step in places if not step.absorbs_all), None)

    @property
    def before_llm(self) -> bool:
        """Whether units are reduced before the LLM, so that dropped placeholders are marked."""
        return bool(self.encoder) or self.projector is not None or self.pixels is not None

    @property
    def empty(self) -> bool:
        """Whether there is no step at all."""
        return not self.before_llm and not self.llm
