"""Methods with settings of their own that have a name on the command line."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import InputError
from .base import Method
from .illava import Illava


def presets() -> dict[str, Callable[[float], Method]]:
    """Every preset by name: a function from the budget, final visual tokens / all, to the method."""
    return {"illava-best": Illava.best}


def make_method(name: str, keep: float | None) -> Method:
    """A method or preset by name, at a budget or at its published schedule. Raises InputError."""
    from . import Compose, methods

    known = sorted({*methods(), *presets()} - {Compose.name})
    if name not in known:
        raise InputError(f"--method {name}: there is no such method; give one of {', '.join(known)}")
    if name in presets():
        if keep is None:
            raise InputError(f"--method {name}: no schedule was published for it; give --keep, such as 1/9")
        return presets()[name](keep)
    try:
        return methods()[name]() if keep is None else methods()[name](keep=keep)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise InputError(f"--method {name}: {error}") from error
