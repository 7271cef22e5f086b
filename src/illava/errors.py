"""Exceptions and warnings of the library, and the warning of renamed attributes."""

from __future__ import annotations

import warnings
from typing import Any


class UnsupportedError(NotImplementedError):
    """A model, input or option is valid but not supported. The message says what is supported."""


class InputError(ValueError):
    """A user input cannot be used. The message is one line that says what would be valid."""


class UntestedVersionWarning(UserWarning):
    """The installed transformers is outside the range of tested releases."""


def renamed(owner: Any, old: str, new: str) -> Any:
    """Return the attribute ``new`` of ``owner`` for a property of its old name, with a DeprecationWarning."""
    name = type(owner).__name__
    warnings.warn(f"{name}.{old} is deprecated: use {name}.{new}", DeprecationWarning, stacklevel=3)
    return getattr(owner, new)
