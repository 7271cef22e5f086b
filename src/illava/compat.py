"""Everything in which the transformers releases that illava supports differ from one another.

Transformers 5.24 renamed the argument, the keyword of :meth:`generate` and the output field that hold the
key/value cache from ``past_key_values`` to ``cache``. Hooks run before the decorator that renames an
argument, so either name can arrive; what a hook writes must be the name that the signature declares, since
transformers discards the old one when both are there. No version is compared where a signature can be read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import nn

CACHE_NAMES = ("cache", "past_key_values")
"""Names of the cache argument and output field, newest first."""


def cache_of(arguments: Mapping[str, Any]) -> Any:
    """The key/value cache among keyword arguments, under whichever name it came; None where there is none."""
    for name in CACHE_NAMES:
        if arguments.get(name) is not None:
            return arguments[name]
    return None


def output_cache(output: Any) -> Any:
    """The key/value cache that a model's output holds, or None."""
    # Not by attribute: the old name is a property that logs a deprecation.
    return cache_of(vars(output)) if hasattr(output, "__dict__") else None


def with_cache(
    function: Callable[..., Any] | nn.Module, arguments: dict[str, Any], cache: Any
) -> dict[str, Any]:
    """``arguments`` with ``cache`` under the one name that ``function`` declares."""
    out = {name: value for name, value in arguments.items() if name not in CACHE_NAMES}
    out[cache_name(function)] = cache
    return out


def cache_name(function: Callable[..., Any] | nn.Module) -> str:
    """The name of the cache argument of a function, or of a module's forward.

    Raises ValueError for a function that declares neither.
    """
    names = argument_names(function)
    for name in CACHE_NAMES:
        if name in names:
            return name
    raise ValueError(f"{function!r} declares no cache argument: none of {', '.join(CACHE_NAMES)}")


def generation_cache(model_kwargs: Mapping[str, Any]) -> str:
    """The name under which ``generate`` keeps the cache among its ``model_kwargs``."""
    return next((name for name in CACHE_NAMES if name in model_kwargs), CACHE_NAMES[0])


def argument_names(function: Callable[..., Any] | nn.Module) -> tuple[str, ...]:
    """Names of a function's arguments, or of those of a module's forward, in order.

    Looks through decorators, accelerate's hooks and compiled modules.
    """
    if isinstance(function, nn.Module):
        function = getattr(function, "_orig_mod", function)
        # The method as the class declares it is one object for all instances, whose names are then read once.
        own = function.__dict__.get("forward")
        function = type(function).forward if own is None else own
        return tuple(name for name in _names(function) if name != "self")
    return _names(function)


def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return _names_once(function)
    except TypeError:
        # Not hashable.
        return tuple(inspect.signature(function).parameters)


@lru_cache(maxsize=1024)
def _names_once(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def named(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call of ``module`` by name."""
    if not args:
        return dict(kwargs)
    return {**dict(zip(argument_names(module), args, strict=False)), **kwargs}


def version() -> str:
    """The installed release of transformers."""
    import transformers

    return str(transformers.__version__)
