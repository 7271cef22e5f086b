"""The state of one forward pass, in one object.

1. :class:`Passes` creates a :class:`Pass` when the base model's forward starts. ``get_image_features``, the
   image encoder and the LLM also create one if they are called outside of a forward.
2. The encoder stage appends an :class:`EncoderRun` to it for each call of the image encoder; the projector
   stage reads the current run.
3. The prompt reader writes the padding and, for a prompt with pictures, the :class:`Prompt`.
4. At the entry of the LLM, the LLM stage writes the object that provides the arguments of the decoder layers
   (:class:`LayerArguments`). For a prompt with pictures it also writes the :class:`Prefill`, which announces
   the remaining tokens to the cache layers.
5. When the LLM returns without an error, the LLM stage publishes the pass to the handle. The pass ends in any
   case.
6. When gradient checkpointing reruns a layer, the pass is restored to its state after the layer's first run.

Two things are kept longer than a pass: the runs of features (``FeatureCalls``, by weak reference), and the
state of a call of ``generate`` (``Generation``).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from ..ops.size_bias import Shared
from .calls import Calls
from .encoder.run import EncoderRun
from .hooks import Hooks
from .llm.labels import Labels
from .llm.prefill import Prefill, Prompt

Grid = tuple[tuple[int, int], tuple[float, float]]
"""Rows and columns of patches, and the shares of a picture's width and height that they cover."""


class LayerArguments(Protocol):
    """Provides the arguments of the decoder layers: :class:`Prefill`, ``CachedMasks`` or ``StaticMasks``."""

    def layer_arguments(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """New arguments for the layer at ``index``; None to keep ``args`` and ``kwargs``."""


@dataclass
class Options:
    """Options of a call of the outer model."""

    refusal: str | None = None
    """The argument that is not supported with pictures, or None."""
    given: tuple[list[EncoderRun], bool] | None = None
    """The encoder runs of the features passed to the outer model, and whether all of these are known; None if
    the base model was called directly."""
    labels: Labels | None = None
    """The labels of each token, if there are any and tokens may be dropped."""


@dataclass
class Pass:
    """One forward of the base model, or one call of a part of it outside of a forward."""

    standalone: bool = False
    """Whether the image encoder or the LLM was called outside of a forward."""
    video: bool = False
    """Whether videos are being encoded."""
    videos: Tensor | None = None
    """(videos, 3) frames, rows and columns in tokens of these videos, if the model provides them."""
    pixels: Tensor | None = None
    """The pixel values of the current call of the image encoder, until its run starts; for steps that read
    them."""
    halfway: dict[int, Tensor] = field(default_factory=dict)
    """Block -> (U, g * d) units that entered it in the current call of the image encoder, for steps in later
    blocks that read them. Reruns of gradient checkpointing find it in the copies of the pass."""
    grid: Grid | None = None
    """Of the pictures of the current call of a batched encoder, if they need not be squares."""
    places: Tensor | None = None
    """(P,) int64, of the current call of a batched encoder: the units that its resized pictures stand for, in
    each picture."""
    encoder_run: EncoderRun | None = None
    """The last call of the image encoder."""
    encoder_runs: list[EncoderRun] = field(default_factory=list)
    """All calls of the image encoder in this pass."""
    padding: Tensor | None = None
    """(B, L) the padding mask passed to the model, including cached tokens, or None."""
    prompt: Prompt | None = None
    """The prompt, if it has pictures."""
    llm_entered: bool = False
    """Whether the LLM was called."""
    prefill: Prefill | None = None
    """The remaining tokens of the prompt at each layer, which are announced to the cache layers."""
    channels: Shared = field(default_factory=dict)
    """Channels of queries, keys and values that layers with the same sizes share."""
    layers: LayerArguments | None = None
    """Provides the arguments of the decoder layers; None if those of the model are unchanged."""
    cache_layers: list[Any] | None = None
    """The layers of the KV cache, if it holds or receives a merged prefill."""

    @property
    def runs(self) -> list[EncoderRun]:
        """The encoder runs of the prompt's features: those of features passed in, and those of this pass."""
        given = [] if self.prompt is None else self.prompt.runs_given
        return [*given, *self.encoder_runs]

    def forget(self) -> None:
        """Delete what no report needs."""
        self.videos = self.padding = self.encoder_run = self.layers = self.cache_layers = None
        self.channels = {}


class Passes:
    """Holds the current pass; hooks on the base model begin and end it."""

    def __init__(self, base: nn.Module, calls: Calls, hooks: Hooks) -> None:
        self.calls = calls
        self.current: Pass | None = None
        self.options = Options()
        """Options of the current call of the outer model, which starts before that of the base model."""
        hooks.pre(base, self._enter)
        hooks.post(base, self.leave, always=True)

    @property
    def encoder_run(self) -> EncoderRun | None:
        """The last call of the image encoder in the current pass."""
        return None if self.current is None else self.current.encoder_run

    def begin(self, *, standalone: bool = False) -> Pass:
        """Start a new pass. It replaces one that was interrupted, whose end no hook reported."""
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
        """End the current pass, and return it."""
        current, self.current = self.current, None
        return current

    def snapshot(self) -> Pass | None:
        """A copy of the current pass, for reruns of layers after it."""
        return copy.copy(self.current)

    @property
    def channels(self) -> Shared | None:
        """What layers of the current pass with the same sizes compute once."""
        return None if self.current is None else self.current.channels

    def _enter(self, *_: Any) -> None:
        self.begin()

    def leave(self, *_: Any) -> None:
        """Hook that ends the pass when the call returns or fails, even if the LLM was not reached."""
        # A call that was refused before it acquired the lock must not end the pass of another thread.
        if self.calls.holds_lock:
            self.current, self.options = None, Options()
