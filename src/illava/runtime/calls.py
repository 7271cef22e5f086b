"""The calls of an accelerated model: one thread at a time, with the state of each call of ``generate``.

There is one current pass (:mod:`illava.runtime.passes`), so a second thread waits until the call of the first
one has ended. Information that ``generate`` has and a forward has not (where the prompt ends) is stored in an
object of that call, which is deleted when the call returns or fails.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError
from ..models.located import LocatedModules
from .hooks import Hooks


@dataclass
class Generation:
    """The state of one call of ``generate``."""

    prompt: Tensor | None = None
    """(B, L) token ids of the prompt, if candidates follow it or if later passes run it again."""
    last: Tensor | None = None
    """(B,) int64, on the CPU: column of the last prompt token in the first of the passes that run it."""
    at_end: Callable[[], None] = lambda: None
    """Called when the call returns or fails."""


class ThreadLock:
    """A reentrant lock that is released if a forward is interrupted.

    Forward hooks do not run after Ctrl-C, which is not an ``Exception``. So a waiting thread checks whether
    the owner is still inside a module's call, and otherwise takes the lock from it.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._owner: int | None = None
        self._blocks = 0
        """Number of active ``with`` blocks of the owner, which always exit."""
        self._calls: list[nn.Module] = []
        """Modules whose forward the owner is running."""

    @property
    def held(self) -> bool:
        """Whether this thread holds the lock."""
        return self._owner == threading.get_ident()

    @contextmanager
    def block(self) -> Iterator[None]:
        """Hold the lock for a ``with`` block."""
        self._acquire()
        self._blocks += 1
        calls = len(self._calls)
        try:
            yield
        finally:
            self._blocks -= 1
            del self._calls[calls:]
            self._release()

    def enter(self, module: nn.Module) -> None:
        """Hold the lock for a call of ``module``, until ``leave``."""
        self._acquire()
        # No module calls itself: an earlier entry belongs to an interrupted call.
        if any(module is known for known in self._calls):
            del self._calls[next(i for i, known in enumerate(self._calls) if known is module) :]
        self._calls.append(module)

    def leave(self, module: nn.Module) -> None:
        """End the call of ``module``. Does nothing if this thread is not in such a call."""
        if self.held and any(module is known for known in self._calls):
            del self._calls[next(i for i, known in enumerate(self._calls) if known is module) :]
            self._release()

    def _acquire(self) -> None:
        with self._free:
            while not (self._owner is None or self.held or self._abandoned()):
                self._free.wait(0.2)
            if not self.held:
                self._owner = threading.get_ident()
                self._blocks, self._calls = 0, []

    def _release(self) -> None:
        if not self._blocks and not self._calls:
            with self._free:
                self._owner = None
                self._free.notify()

    def _abandoned(self) -> bool:
        """Whether the owner is not inside a module's call, although it has not released the lock."""
        if self._blocks:
            return False
        frame = sys._current_frames().get(self._owner or 0)
        while frame is not None:
            if frame.f_code is nn.Module._call_impl.__code__:
                return False
            frame = frame.f_back
        return True


class Calls:
    """Lets one thread at a time run the model; ``generation`` is this thread's call of ``generate``."""

    def __init__(self, modules: LocatedModules, hooks: Hooks) -> None:
        self.modules, self.hooks = modules, hooks
        self.lock = ThreadLock()
        self.generating = False
        """Whether the thread that holds the lock is in ``generate``; compiled code reads it."""
        self._local = threading.local()
        if hasattr(modules.model, "generate"):
            generate: Any = modules.model.generate
            hooks.attribute(modules.model, "generate", self._exclusively(generate))
        for name in ("generate_batch", "continuous_batching_context_manager", "init_continuous_batching"):
            if hasattr(modules.model, name):
                hooks.attribute(modules.model, name, _refuse_paged)

    @property
    def _modules(self) -> list[nn.Module]:
        # Hooks on the base model read the options that hooks on the outer model have recorded.
        return (
            [self.modules.model]
            if self.modules.model is self.modules.base
            else [self.modules.model, self.modules.base]
        )

    def close(self) -> None:
        """Called after all other hooks are attached: add hooks before the first and after the last one."""
        for module in self._modules:
            self.hooks.pre(module, self._enter, prepend=True)
            self.hooks.post(module, self._leave, always=True)
        # Exported alone, their hooks would fix the number of tokens, or be lost.
        for module in (self.modules.encoder, self.modules.llm):
            self.hooks.pre(module, _refuse_exporting, prepend=True)

    @property
    def generation(self) -> Generation | None:
        """The innermost call of ``generate`` that this thread is in, or None."""
        stack = getattr(self._local, "stack", None)
        return stack[-1] if stack else None

    @property
    def holds_lock(self) -> bool:
        """Whether the current call belongs to this thread."""
        return torch.compiler.is_compiling() or self.lock.held

    def _enter(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        _refuse_exporting()
        if not any(module is known for known in self._modules):
            raise UnsupportedError(
                "replicas of an accelerated model (torch.nn.DataParallel) are not supported: accelerate "
                "one model on each device"
            )
        if not torch.compiler.is_compiling():
            self._lock_for(module)
        elif not self.generating:
            # Steps compiled by generate() must not cause a graph break; generate() holds the lock for them.
            self._lock_uncompiled(module)

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            self.lock.leave(module)
        elif not self.generating:
            self._unlock_uncompiled(module)

    def _lock_for(self, module: nn.Module) -> None:
        self.lock.enter(module)
        if not self.hooks.owner.active:
            # The hooks were removed while this thread waited.
            self.lock.leave(module)

    @torch.compiler.disable
    def _lock_uncompiled(self, module: nn.Module) -> None:
        self._lock_for(module)

    @torch.compiler.disable
    def _unlock_uncompiled(self, module: nn.Module) -> None:
        self.lock.leave(module)

    def _exclusively(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        # generate() and pipelines read the signature.
        @wraps(generate)
        def generate_alone(*args: Any, **kwargs: Any) -> Any:
            if "paged" in (_cache_implementation(args, kwargs), kwargs.get("cache_implementation")):
                _refuse_paged()
            stack = self._local.__dict__.setdefault("stack", [])
            with self.lock.block():
                outer, self.generating = self.generating, True
                stack.append(Generation())
                try:
                    return generate(*args, **kwargs)
                finally:
                    self.generating = outer
                    self.hooks.owner.running = False
                    stack.pop().at_end()

        return generate_alone


def _refuse_exporting(*_: Any) -> None:
    if _exporting():
        raise UnsupportedError(
            "an accelerated model cannot be traced or exported, since the tokens kept depend on the "
            "picture; call handle.remove() first"
        )


def _exporting() -> bool:
    # is_exporting is missing in the oldest supported torch.
    exporting: bool = getattr(torch.compiler, "is_exporting", bool)()
    return exporting or bool(torch.jit.is_tracing())  # type: ignore[no-untyped-call]


def _cache_implementation(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    config = kwargs.get("generation_config", args[1] if len(args) > 1 else None)
    return getattr(config, "cache_implementation", None)


def _refuse_paged(*args: Any, **kwargs: Any) -> Any:
    raise UnsupportedError(
        "paged caches and continuous batching are not supported: they support neither pictures nor merged "
        "prompts; call generate() with a dynamic or static cache"
    )
