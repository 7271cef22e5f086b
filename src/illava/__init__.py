"""illava: vision-language models made faster by merging redundant visual tokens, without training."""

from . import zoo
from .accelerate import Handle, accelerate
from .errors import UnsupportedError
from .families import supported_families
from .methods import Illava, Method
from .report import Report

__all__ = [
    "Handle",
    "Illava",
    "Method",
    "Report",
    "UnsupportedError",
    "accelerate",
    "supported_families",
    "zoo",
]
__version__ = "0.1.0"
