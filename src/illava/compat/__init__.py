"""Handles the differences between the supported releases of transformers.

Differences are detected from signatures (:mod:`.signatures`) wherever possible, not from version numbers.
"""

from __future__ import annotations

from .attention import eager_attention
from .cache_names import CACHE_NAMES, cache_name, cache_of, generation_cache, output_cache, with_cache
from .checkpointing import checkpoints_need_grad
from .signatures import argument_names, named
from .versions import TESTED, installed, tested_range

__all__ = [
    "CACHE_NAMES",
    "TESTED",
    "argument_names",
    "cache_name",
    "cache_of",
    "checkpoints_need_grad",
    "eager_attention",
    "generation_cache",
    "installed",
    "named",
    "output_cache",
    "tested_range",
    "with_cache",
]
