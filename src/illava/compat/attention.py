"""Finds the eager attention function; every modeling file of transformers defines its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import nn


def eager_attention(module: nn.Module) -> Callable[..., Any] | None:
    """The eager attention function in the file of an attention module's class, or in that of a base class."""
    for kind in type(module).__mro__:
        found: Callable[..., Any] | None = getattr(
            sys.modules.get(kind.__module__), "eager_attention_forward", None
        )
        if found is not None:
            return found
    return None
