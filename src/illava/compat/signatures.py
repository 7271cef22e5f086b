"""Reads the signature of a function, and the names that its code uses, through any wrappers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any

from torch import nn

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Signature:
    """The arguments of a function, without ``self``, and the names that its code uses."""

    positional: tuple[str, ...]
    """Arguments that can be passed by position, in order."""
    names: frozenset[str]
    """All named arguments."""
    required: frozenset[str]
    """Arguments without a default."""
    opaque: bool
    """Whether it takes ``*args`` and ``**kwargs``, so that its real arguments are unknown."""
    uses: frozenset[str] | None
    """Attributes, globals, keywords and one-word strings in its code; None if it has no Python code."""
    keywords: bool = False
    """Whether it takes ``**kwargs``."""
    home: str = ""
    """The package that defines it."""


def original(module: nn.Module) -> nn.Module:
    """The module inside a wrapper of ``torch.compile``, or the module itself."""
    while isinstance(getattr(module, "_orig_mod", None), nn.Module):
        module = module._orig_mod  # type: ignore[assignment]
    return module


def method_of(owner: Any, name: str) -> Signature | None:
    """The signature of a method of an instance or a class; None if there is no such method.

    A method that was replaced on the instance, as the hooks of the library accelerate do, takes precedence
    over that of the class.
    """
    kind = owner if isinstance(owner, type) else type(owner)
    own = vars(owner).get(name) if not isinstance(owner, type) else None
    inherited = _inherited(kind.__mro__, name)
    if own is None:
        return inherited
    # A bound method. It is not cached, since it refers to its module.
    read = _read(own, bound=True)
    return inherited if read.opaque and inherited is not None else _with_inherited(read, inherited)


def _inherited(mro: tuple[type, ...], name: str) -> Signature | None:
    """The signature of a method, given the classes that may define it in resolution order."""
    for number, kind in enumerate(mro):
        found = vars(kind).get(name)
        if found is None:
            continue
        static = isinstance(found, staticmethod)
        function = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
        read = _of_class(function, static)
        return _with_inherited(read, _inherited(mro[number + 1 :], name))
    return None


def _with_inherited(read: Signature, inherited: Signature | None) -> Signature:
    """The signature of a method combined with the one it overrides, if it passes ``**kwargs`` on to it."""
    if inherited is None or not read.keywords or read.home in ("transformers", "torch"):
        return read
    return Signature(
        positional=read.positional or inherited.positional,
        names=read.names | inherited.names,
        required=read.required,
        opaque=read.opaque,
        uses=None if read.uses is None or inherited.uses is None else read.uses | inherited.uses,
        keywords=inherited.keywords,
        home=read.home,
    )


def argument_names(module: nn.Module) -> tuple[str, ...]:
    """The arguments of a module's forward that can be passed by position, in order."""
    signature = method_of(original(module), "forward")
    return () if signature is None else signature.positional


def named(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """All arguments of a call of ``module`` by name, as a read-only mapping."""
    return {**dict(zip(argument_names(module), args, strict=False)), **kwargs} if args else kwargs


def function(found: Callable[..., Any]) -> Signature:
    """The signature of a plain function."""
    return _of_class(found, True)


# Cached per function object: a function that replaces another has its own entry.
@lru_cache(maxsize=2048)
def _of_class(found: Callable[..., Any], bound: bool) -> Signature:
    return _read(found, bound=bound)


def _read(found: Callable[..., Any], *, bound: bool) -> Signature:
    try:
        parameters = list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):
        return Signature((), frozenset(), frozenset(), True, None)
    parameters = parameters if bound else parameters[1:]
    kinds = {parameter.kind for parameter in parameters}
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return Signature(
        positional=tuple(p.name for p in named if p.kind in _POSITIONAL),
        names=frozenset(p.name for p in named),
        required=frozenset(p.name for p in named if p.default is p.empty),
        opaque={inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds,
        uses=_uses(found),
        keywords=inspect.Parameter.VAR_KEYWORD in kinds,
        home=str(getattr(inspect.unwrap(found), "__module__", None)).partition(".")[0],
    )


def _uses(found: Callable[..., Any]) -> frozenset[str] | None:
    inner = inspect.unwrap(found)
    code = getattr(getattr(inner, "__func__", inner), "__code__", None)
    return _names_in(code) if isinstance(code, CodeType) else None


@lru_cache(maxsize=2048)
def _names_in(code: CodeType) -> frozenset[str]:
    found = set(code.co_names)
    left = list(code.co_consts)
    while left:
        constant = left.pop()
        if isinstance(constant, str):
            if constant.isidentifier():
                found.add(constant)
        elif isinstance(constant, tuple):
            left += constant
        elif isinstance(constant, CodeType):
            # Nested functions and comprehensions.
            found |= _names_in(constant)
    return frozenset(found)


def forget() -> None:
    """Clear the caches of signatures; for measurements."""
    _of_class.cache_clear()
    _names_in.cache_clear()
