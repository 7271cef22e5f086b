"""The key/value cache under either of its names.

Transformers 5.24 renamed the argument, the keyword of :meth:`generate` and the output field that hold the
key/value cache from ``past_key_values`` to ``cache``. Hooks run before the decorator that renames an
argument, so either name can arrive; what a hook writes must be the name that the signature declares, since
transformers discards the old one when both are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .signatures import argument_names

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


def with_cache(name: str, arguments: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """``arguments`` with ``cache`` under one ``name``, as :func:`cache_name` gives it, and no other."""
    return {**{key: value for key, value in arguments.items() if key not in CACHE_NAMES}, name: cache}


def cache_name(module: nn.Module) -> str:
    """The name of the cache argument of a module's forward. Raises ValueError where it declares neither."""
    names = argument_names(module)
    for name in CACHE_NAMES:
        if name in names:
            return name
    raise ValueError(f"{type(module).__name__}.forward declares none of {', '.join(CACHE_NAMES)}")


def generation_cache(model_kwargs: Mapping[str, Any]) -> str:
    """The name under which ``generate`` keeps the cache among its ``model_kwargs``."""
    return next((name for name in CACHE_NAMES if name in model_kwargs), CACHE_NAMES[0])
