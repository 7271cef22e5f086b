"""Everything that is attached to a model, in one list, so that it can be taken off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .attention import AttentionTap


class Hooks:
    """Attaches hooks, taps and instance attributes; ``remove`` takes them off in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def pre(self, module: nn.Module, hook: Callable[..., Any], *, prepend: bool = False) -> None:
        """``hook(module, args, kwargs)`` before the module's forward; may return (args, kwargs)."""
        handle = module.register_forward_pre_hook(hook, with_kwargs=True, prepend=prepend)
        self._undo.append(handle.remove)

    def post(
        self, module: nn.Module, hook: Callable[..., Any], *, prepend: bool = False, always: bool = False
    ) -> None:
        """``hook(module, args, kwargs, output)`` after it; may return another output."""
        handle = module.register_forward_hook(hook, with_kwargs=True, prepend=prepend, always_call=always)
        self._undo.append(handle.remove)

    def tap(self, tap: AttentionTap) -> None:
        self._undo.append(tap.remove)

    def attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Shadow a method or set a mark on this one instance."""
        before = dict(module.__dict__)
        module.__dict__[name] = value
        if name in before:
            self._undo.append(lambda: module.__dict__.__setitem__(name, before[name]))
        else:
            self._undo.append(lambda: module.__dict__.pop(name, None))

    def remove(self) -> None:
        while self._undo:
            self._undo.pop()()
