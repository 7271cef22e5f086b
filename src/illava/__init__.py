"""illava: vision-language models made faster by merging redundant visual tokens, without training."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import viz, zoo
    from .doctor.verification import Verification, verify
    from .errors import UnsupportedError, UntestedVersionWarning
    from .families import supported_families
    from .handle import Handle, accelerate
    from .methods import (
        DART,
        Compose,
        DivPrune,
        Downsample,
        FasterVLM,
        FastV,
        Illava,
        Method,
        Pool,
        PruMergePlus,
        PyramidDrop,
        Random,
        SparseVLM,
        ToMe,
        VisionZip,
        VisPruner,
    )
    from .planner import Recommendation, plan
    from .prediction import Prediction, predict
    from .products import Tuned, tune
    from .report import Report

__all__ = [
    "DART",
    "Compose",
    "DivPrune",
    "Downsample",
    "FastV",
    "FasterVLM",
    "Handle",
    "Illava",
    "Method",
    "Pool",
    "Prediction",
    "PruMergePlus",
    "PyramidDrop",
    "Random",
    "Recommendation",
    "Report",
    "SparseVLM",
    "ToMe",
    "Tuned",
    "UnsupportedError",
    "UntestedVersionWarning",
    "Verification",
    "VisPruner",
    "VisionZip",
    "accelerate",
    "plan",
    "predict",
    "supported_families",
    "tune",
    "verify",
    "viz",
    "zoo",
]
__version__ = "0.1.0"

# Imported on first use: torch and transformers take seconds, and `illava --help` needs neither.
_HOMES = {
    "Handle": ".handle",
    "Compose": ".methods",
    "DART": ".methods",
    "DivPrune": ".methods",
    "Downsample": ".methods",
    "FastV": ".methods",
    "FasterVLM": ".methods",
    "Illava": ".methods",
    "Method": ".methods",
    "Pool": ".methods",
    "PruMergePlus": ".methods",
    "PyramidDrop": ".methods",
    "Random": ".methods",
    "SparseVLM": ".methods",
    "ToMe": ".methods",
    "VisPruner": ".methods",
    "VisionZip": ".methods",
    "Prediction": ".prediction",
    "Recommendation": ".planner",
    "Report": ".report",
    "Tuned": ".products",
    "UnsupportedError": ".errors",
    "UntestedVersionWarning": ".errors",
    "Verification": ".doctor.verification",
    "accelerate": ".handle",
    "plan": ".planner",
    "predict": ".prediction",
    "supported_families": ".families",
    "tune": ".products",
    "verify": ".doctor.verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES and (name.startswith("_") or find_spec(f"{__name__}.{name}") is None):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        # Or a module, such as viz, zoo and merging.
        home = import_module(_HOMES.get(name, f".{name}"), __name__)
    except ImportError as error:
        # Modules of illava import names of transformers that another release may not have.
        if not (error.name or "").startswith("transformers.") and error.name != "transformers":
            raise
        if find_spec("transformers") is None:
            raise
        from .contract import import_refusal

        raise import_refusal(error) from error
    return getattr(home, name) if name in _HOMES else home


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
