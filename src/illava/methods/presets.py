"""Methods by name, and presets: named settings of methods for the command line."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import InputError
from .base import Method
from .illava import Illava

DEFAULT_KEEP = 1 / 3
"""The budget where none is given. About what the published schedules leave; a model that nobody has measured
should lose little."""


def default_method() -> Illava:
    """What :func:`illava.accelerate` and the commands use where no method, budget or file is given."""
    return Illava.best(DEFAULT_KEEP)


def presets() -> dict[str, Callable[[float], Method]]:
    """All presets by name: functions from the budget, the share of visual tokens left at the end."""
    return {"illava-best": Illava.best, "illava-authors-code": Illava.authors_code}


def make_method(name: str, keep: float | None) -> Method:
    """A method or preset by name, at a budget, or at its own default for ``keep=None``. Raises InputError."""
    from . import Compose, methods

    known = sorted({*methods(), *presets()} - {Compose.name})
    if name not in known:
        raise InputError(f"--method {name}: unknown method; give one of {', '.join(known)}")
    if name in presets():
        if keep is None:
            raise InputError(f"--method {name}: this preset needs a budget; give --keep, such as 1/9")
        return presets()[name](keep)
    try:
        return methods()[name]() if keep is None else methods()[name](keep=keep)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise InputError(f"--method {name}: {error}") from error
