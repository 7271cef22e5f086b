"""A prompt on its way through the engine, and the events that its answer consists of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..methods import Method
from .places import Place
from .sampling import Sampling


@dataclass(frozen=True)
class Prompt:
    """A conversation that the model's processor accepts."""

    chat: list[dict[str, Any]]
    """As ``apply_chat_template`` takes it, with Pillow images."""
    inputs: Any
    """The model's inputs for this prompt alone, on the CPU."""
    length: int
    """Tokens, with all visual tokens."""
    visual_tokens: int
    form: tuple[bool, bool]
    """Whether it has pictures, and whether it has videos: processors batch prompts of one form only."""


@dataclass(frozen=True)
class Piece:
    """A piece of the answer's text, which may be empty."""

    text: str


@dataclass(frozen=True)
class Done:
    """The end of an answer."""

    reason: str
    """"stop" at the model's end token or a stop sequence, "length" at the limit of new tokens."""
    tokens: int
    """New tokens, the end token included."""
    visual_before: int
    visual_after: int
    """Visual tokens after the last step of merging."""


@dataclass(frozen=True)
class Failed:
    """The end of a prompt that could not be answered."""

    error: Exception
    """What a client is told."""
    cause: Exception | None = None
    """What happened."""


Event = Piece | Done | Failed


@dataclass(eq=False)
class Job:
    """A prompt, how it is answered, and where its events go."""

    prompt: Prompt
    method: Method
    max_tokens: int
    listener: Callable[[Event], None]
    """Called in the worker's thread: with pieces, then with Done or Failed. Not called once cancelled."""
    place: Place
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    arrived: float = field(default_factory=time.monotonic)
    """When the request arrived, on the monotonic clock."""
    queued: float = 0.0
    """When the job was queued."""
    first_token: float | None = None
    cancelled: bool = False

    def cancel(self) -> None:
        """Stop the job before its next token. It may be called from any thread, and more than once."""
        self.cancelled = True
        self.place.leave()

    def tell(self, event: Event) -> None:
        """Hand an event to the listener."""
        if not self.cancelled:
            self.listener(event)

    def batches_with(self, other: Job) -> bool:
        """Whether both can be in one batch: of one method, budget included, and of one form."""
        return self.method == other.method and self.prompt.form == other.prompt.form
