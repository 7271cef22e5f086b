"""Reads and passes the KV cache under either of its names.

Transformers 5.24 renamed the argument, the keyword of :meth:`generate` and the output field of the KV cache
from ``past_key_values`` to ``cache``. Hooks run before the decorator that renames the argument, so they can
receive either name. They must pass on the name that the signature declares, since transformers ignores the
old name if both are present.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .signatures import argument_names

CACHE_NAMES = ("cache", "past_key_values")
"""Names of the cache argument and output field, newest first."""


def cache_of(arguments: Mapping[str, Any]) -> Any:
    """The KV cache among keyword arguments, under either name; None if there is none."""
    for name in CACHE_NAMES:
        if arguments.get(name) is not None:
            return arguments[name]
    return None


def output_cache(output: Any) -> Any:
    """The KV cache in the output of a model, or None."""
    # Not by attribute access: the old name is a property that logs a deprecation warning.
    return cache_of(vars(output)) if hasattr(output, "__dict__") else None


def with_cache(name: str, arguments: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """``arguments`` with ``cache`` under ``name`` (see :func:`cache_name`) and under no other name."""
    return {**{key: value for key, value in arguments.items() if key not in CACHE_NAMES}, name: cache}


def cache_name(module: nn.Module) -> str:
    """The name of the cache argument of a module's forward. Raises ValueError if it has neither name."""
    names = argument_names(module)
    for name in CACHE_NAMES:
        if name in names:
            return name
    raise ValueError(
        f"{type(module).__name__}.forward has no cache argument, expected one of {', '.join(CACHE_NAMES)}"
    )


def generation_cache(model_kwargs: Mapping[str, Any]) -> str:
    """The name of the KV cache in the ``model_kwargs`` of ``generate``."""
    return next((name for name in CACHE_NAMES if name in model_kwargs), CACHE_NAMES[0])
