"""The state of one forward pass, in one object.

1. :class:`Passes` makes a :class:`Pass` when the base model's forward begins. ``get_image_features``, the
   image encoder and the LLM make one as well where they are called outside of a forward.
2. The encoder stage appends an :class:`EncoderRun` to it for each call of the image encoder; the projector
   stage reads the run under way.
3. The prompt reader writes the padding and, for a prompt with pictures, the :class:`Prompt`.
4. At the entry of the LLM its stage writes what gives the decoder layers their arguments
   (:class:`LayerArguments`), and for a prompt with pictures the :class:`Prefill`, which also tells the cache
   layers what to expect.
5. When the LLM returns without an error, its stage publishes the pass to the handle. In any case the pass is
   over.
6. Layers that gradient checkpointing runs again find the pass as their first run left it.

Two things outlive a pass: which runs made which features (``FeatureCalls``, by weak reference), and what one
call of ``generate`` knows (``Generation``).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from .calls import Calls
from .encoder.run import EncoderRun
from .hooks import Hooks
from .llm.prefill import Prefill, Prompt


class LayerArguments(Protocol):
    """Gives the decoder layers their arguments: :class:`Prefill`, ``CachedMasks`` or ``StaticMasks``."""

    def layer_arguments(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What the layer at ``index`` is called with instead of ``args`` and ``kwargs``; None: with these."""


@dataclass
class Options:
    """What a call of the outer model tells its pass."""

    refusal: str | None = None
    """The argument that is not supported with pictures, or None."""
    given: tuple[list[EncoderRun], bool] | None = None
    """The encoder runs that made the features handed to the outer model, and whether all of these are known;
    None where the base model was called itself."""


@dataclass
class Pass:
    """One forward of the base model, or one call of a part of it outside of a forward."""

    standalone: bool = False
    """Whether the image encoder or the LLM was called outside of a forward."""
    video: bool = False
    """Whether videos are being encoded."""
    videos: Tensor | None = None
    """(videos, 3) frames, rows and columns in tokens of these videos, where the model has them."""
    encoder_run: EncoderRun | None = None
    """The last call of the image encoder."""
    encoder_runs: list[EncoderRun] = field(default_factory=list)
    """All calls of the image encoder in this pass."""
    padding: Tensor | None = None
    """(B, L) the padding mask that the model was handed, cached tokens included, or None."""
    prompt: Prompt | None = None
    """The prompt, if it shows pictures."""
    llm_entered: bool = False
    """Whether the LLM was called."""
    prefill: Prefill | None = None
    """Which tokens of the prompt are left at which layer, and what the cache layers are to expect."""
    layers: LayerArguments | None = None
    """Gives the decoder layers their arguments; None where they get those of the model."""

    @property
    def runs(self) -> list[EncoderRun]:
        """The encoder runs that made the prompt's features: of those handed in, and of this pass."""
        given = [] if self.prompt is None else self.prompt.runs_given
        return [*given, *self.encoder_runs]

    def forget(self) -> None:
        """Drop what no report needs."""
        self.videos = self.padding = self.encoder_run = self.layers = None


class Passes:
    """Holds the pass under way; hooks on the base model begin and end it."""

    def __init__(self, base: nn.Module, calls: Calls, hooks: Hooks) -> None:
        self.calls = calls
        self.current: Pass | None = None
        self.options = Options()
        """Those of the outer model's call under way, which begins before the base model's."""
        hooks.pre(base, self._enter)
        hooks.post(base, self.leave, always=True)

    @property
    def encoder_run(self) -> EncoderRun | None:
        """The last call of the image encoder in the pass under way."""
        return None if self.current is None else self.current.encoder_run

    def begin(self, *, standalone: bool = False) -> Pass:
        """A new pass. One that was interrupted, whose end nobody reported, is dropped."""
        self.current = Pass(standalone=standalone)
        return self.current

    def for_encoder(self) -> Pass:
        """The pass that a call of the image encoder belongs to."""
        if self.current is None or self.current.standalone:
            return self.begin(standalone=True)
        return self.current

    def for_llm(self) -> Pass:
        """The pass that a call of the LLM belongs to: each pass calls it once."""
        current = self.current
        if current is None or current.standalone or current.llm_entered:
            current = self.begin(standalone=True)
        current.llm_entered = True
        return current

    def end(self) -> Pass | None:
        """The pass under way is over; returns it."""
        current, self.current = self.current, None
        return current

    def snapshot(self) -> Pass | None:
        """The pass as it is now, for layers that run again after it."""
        return copy.copy(self.current)

    def _enter(self, *_: Any) -> None:
        self.begin()

    def leave(self, *_: Any) -> None:
        """A hook: the call is over, whether or not the LLM was reached."""
        # A call that was refused before it held the lock must not end another thread's pass.
        if self.calls.holds_lock:
            self.current, self.options = None, Options()
