"""illava: vision-language models made faster by merging redundant visual tokens, without training."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import zoo
    from .doctor.verification import Verification, verify
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
    "Verification",
    "VisPruner",
    "VisionZip",
    "accelerate",
    "plan",
    "predict",
    "supported_families",
    "tune",
    "verify",
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
    "Verification": ".doctor.verification",
    "accelerate": ".handle",
    "plan": ".planner",
    "predict": ".prediction",
    "supported_families": ".families",
    "tune": ".products",
    "verify": ".doctor.verification",
}


def __getattr__(name: str) -> Any:
    if name == "zoo":
        return import_module(".zoo", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
