"""Everything that is attached to a model, in one list, so that it can be removed again."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from .attention_tap import AttentionTap, Bias, Observer


class Owner:
    """Whether an acceleration is still active; shared with the caches that it filled and their copies."""

    _alive: ClassVar[weakref.WeakValueDictionary[str, Owner]] = weakref.WeakValueDictionary()

    def __init__(self) -> None:
        self.active = True
        self.running = False
        """Whether its LLM is running."""
        self.name = uuid.uuid4().hex
        self._alive[self.name] = self

    def __deepcopy__(self, memo: dict[int, Any]) -> Owner:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle refers to this object only within this process, and only as long as the object exists.
        return _owner, (self.name,)


def _owner(name: str) -> Owner:
    found = Owner._alive.get(name)
    if found is None:
        found = Owner()
        found.active = False
    return found


class Hooks:
    """Attaches hooks, taps and instance attributes; ``remove`` removes them in reverse order."""

    def __init__(self) -> None:
        self.owner = Owner()
        self._undo: list[Callable[[], None]] = []
        self._taps: dict[nn.Module, AttentionTap] = {}

    def pre(self, module: nn.Module, hook: Callable[..., Any], *, prepend: bool = False) -> None:
        """Call ``hook(module, args, kwargs)`` before the module's forward; it may return (args, kwargs)."""
        handle = module.register_forward_pre_hook(hook, with_kwargs=True, prepend=prepend)
        self._undo.append(handle.remove)

    def post(
        self, module: nn.Module, hook: Callable[..., Any], *, prepend: bool = False, always: bool = False
    ) -> None:
        """Call ``hook(module, args, kwargs, output)`` after the forward; it may return another output."""
        handle = module.register_forward_hook(hook, with_kwargs=True, prepend=prepend, always_call=always)
        self._undo.append(handle.remove)

    def undo(self, function: Callable[[], Any]) -> None:
        """Call ``function`` in :meth:`remove`."""
        self._undo.append(function)

    def tap(
        self, attention: nn.Module, observer: Observer | None = None, *, bias: Bias | None = None
    ) -> AttentionTap:
        """Pass the queries and keys of an attention module to ``observer``, or add ``bias`` to its logits."""
        tap = self._taps.get(attention)
        if tap is None:
            tap = self._taps[attention] = AttentionTap(attention)
            self._undo.append(tap.remove)
        if observer is not None:
            tap.observers.append(observer)
        tap.bias = bias or tap.bias
        return tap

    def attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Set an attribute on this instance, such as a wrapper that shadows a method of the class."""
        if name in module.__dict__:
            before = module.__dict__[name]
            self._undo.append(lambda: module.__dict__.__setitem__(name, before))
        else:
            self._undo.append(lambda: module.__dict__.pop(name, None))
        module.__dict__[name] = value

    def remove(self) -> None:
        self.owner.active = False
        self._taps.clear()
        while self._undo:
            self._undo.pop()()
