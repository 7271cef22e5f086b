"""illava: vision-language models made faster by merging redundant visual tokens, without training."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import viz as viz
    from . import zoo as zoo
    from .api import Handle as Handle
    from .api import accelerate as accelerate
    from .doctor.verification import Verification as Verification
    from .doctor.verification import verify as verify
    from .errors import InputError as InputError
    from .errors import UnsupportedError as UnsupportedError
    from .errors import UntestedVersionWarning as UntestedVersionWarning
    from .methods import *  # noqa: F403
    from .models.families import supported_families as supported_families
    from .planning.plan import Recommendation as Recommendation
    from .planning.plan import plan as plan
    from .planning.predict import Prediction as Prediction
    from .planning.predict import predict as predict
    from .report import Report as Report
    from .runtime.linear_tuning import Tuned as Tuned
    from .runtime.linear_tuning import tune as tune

__version__ = "0.2.0"

# Imported on first use: torch and transformers take seconds, and `illava --help` needs neither.
_HOMES = {
    "Handle": ".api",
    "InputError": ".errors",
    "Prediction": ".planning.predict",
    "Recommendation": ".planning.plan",
    "Report": ".report",
    "Tuned": ".runtime.linear_tuning",
    "UnsupportedError": ".errors",
    "UntestedVersionWarning": ".errors",
    "Verification": ".doctor.verification",
    "accelerate": ".api",
    "plan": ".planning.plan",
    "predict": ".planning.predict",
    "supported_families": ".models.families",
    "tune": ".runtime.linear_tuning",
    "verify": ".doctor.verification",
}
_MODULES = ("viz", "zoo")


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted({*_HOMES, *_MODULES, *_methods()})
    if name in _HOMES:
        return getattr(_import(_HOMES[name][1:]), name)
    if not name.startswith("_"):
        if find_spec(f"{__name__}.{name}") is not None:
            return _import(name)
        if name in _methods():
            return getattr(_import("methods"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _methods() -> tuple[str, ...]:
    """The names of the method classes, read off the one file that lists them, without importing it."""
    loader: Any = find_spec(f"{__name__}.methods").loader  # type: ignore[union-attr]
    return tuple(
        re.findall(r"^from \.\w+ import \w+ as (\w+)$", loader.get_source(f"{__name__}.methods"), re.M)
    )


def _import(module: str) -> Any:
    try:
        return import_module(f".{module}", __name__)
    except ImportError as error:
        # Modules of illava import names of transformers that another release may not have.
        if not (error.name or "").startswith("transformers.") and error.name != "transformers":
            raise
        if find_spec("transformers") is None:
            raise
        from .runtime.contract import import_refusal

        raise import_refusal(error) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
