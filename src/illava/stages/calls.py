"""The calls of an accelerated model: one thread at a time, and what is known only while a call lasts.

The stages keep the state of the pass under way, so a second thread waits until the first one's call is over.
What ``generate`` knows and a forward does not (where the prompt ends) is kept in an object of that one call,
which is dropped when it returns or fails.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..parts import ModelParts
from .hooks import Hooks


@dataclass
class Generation:
    """What one call of ``generate`` knows."""

    prompt_length: int | None = None
    """Tokens of the prompt, where candidates follow it in the first pass."""
    last: Tensor | None = None
    """(B,) int64 column of the last prompt token in the first pass, for passes that run the prompt again."""
    at_end: Callable[[], None] = lambda: None
    """Called when it returns or fails."""


class Calls:
    """Lets one thread at a time run the model; ``generation`` is this thread's call of generate."""

    def __init__(self, parts: ModelParts, hooks: Hooks, *, active: bool) -> None:
        self.parts, self.hooks, self.active = parts, hooks, active
        self._lock = threading.RLock()
        self._entered: list[nn.Module] = []
        self._local = threading.local()
        for module in self._modules:
            hooks.pre(module, self._enter)
        if hasattr(parts.model, "generate"):
            hooks.attribute(parts.model, "generate", self._generating(parts.model.generate))  # type: ignore[operator, arg-type]
        for name in ("generate_batch", "continuous_batching_context_manager", "init_continuous_batching"):
            if hasattr(parts.model, name):
                hooks.attribute(parts.model, name, _refuse_paged)

    @property
    def _modules(self) -> list[nn.Module]:
        # The head's notes are read by the base.
        return (
            [self.parts.model] if self.parts.model is self.parts.base else [self.parts.model, self.parts.base]
        )

    def close(self) -> None:
        """After all other hooks are attached: let the next thread in behind them."""
        for module in self._modules:
            self.hooks.post(module, self._leave, always=True)

    @property
    def generation(self) -> Generation | None:
        """The innermost call of ``generate`` that this thread is in, or None."""
        stack = getattr(self._local, "stack", None)
        return stack[-1] if stack else None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other threads out."""
        with self._lock:
            entered = len(self._entered)
            try:
                yield
            finally:
                # A forward that was interrupted, as by Ctrl-C, has not run its hooks.
                while len(self._entered) > entered:
                    self._pop()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _exporting():
            raise UnsupportedError(
                "an accelerated model cannot be traced or exported, since what is kept depends on the "
                "picture; call handle.remove() first"
            )
        if not any(module is known for known in self._modules):
            raise UnsupportedError(
                "replicas of an accelerated model (torch.nn.DataParallel) are not supported: accelerate "
                "one model on each device"
            )
        if torch.compiler.is_compiling():
            return
        self._lock.acquire()
        # No model calls itself: what is there already was interrupted.
        while any(module is known for known in self._entered):
            self._pop()
        self._entered.append(module)

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not torch.compiler.is_compiling() and self._entered and self._entered[-1] is module:
            self._pop()

    def _pop(self) -> None:
        self._entered.pop()
        self._lock.release()

    def _generating(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        # generate() and pipelines read the signature.
        @wraps(generate)
        def generate_alone(*args: Any, **kwargs: Any) -> Any:
            if "paged" in (_cache_implementation(args, kwargs), kwargs.get("cache_implementation")):
                _refuse_paged()
            stack = self._local.__dict__.setdefault("stack", [])
            with self.alone():
                stack.append(Generation())
                try:
                    return generate(*args, **kwargs)
                finally:
                    stack.pop().at_end()

        return generate_alone


def _exporting() -> bool:
    # Younger than the oldest torch that is supported.
    exporting: bool = getattr(torch.compiler, "is_exporting", bool)()
    return exporting or bool(torch.jit.is_tracing())  # type: ignore[no-untyped-call]


def _cache_implementation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    config = kwargs.get("generation_config", args[1] if len(args) > 1 else None)
    return getattr(config, "cache_implementation", None)


def _refuse_paged(*args: Any, **kwargs: Any) -> Any:
    raise UnsupportedError(
        "paged caches and continuous batching are not supported: they take no pictures, and hold no merged "
        "prompt; call generate() with a dynamic or static cache"
    )
