"""illava: vision-language models made faster by merging redundant visual tokens, without training."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import viz, zoo
    from .errors import UnsupportedError
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
    "VisPruner",
    "VisionZip",
    "accelerate",
    "plan",
    "predict",
    "supported_families",
    "tune",
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
    "accelerate": ".handle",
    "plan": ".planner",
    "predict": ".prediction",
    "supported_families": ".families",
    "tune": ".products",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    # Modules such as viz, zoo and merging.
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
