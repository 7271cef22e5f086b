"""The methods: each one frozen dataclass in one file, all behind the same interface."""

from .base import Method, method_from_dict, methods
from .compose import Compose
from .dart import DART
from .divprune import DivPrune
from .downsample import Downsample
from .fastervlm import FasterVLM
from .fastv import FastV
from .illava import Illava
from .pool import Pool
from .presets import presets
from .prumerge import PruMergePlus
from .pyramiddrop import PyramidDrop
from .random import Random
from .sparsevlm import SparseVLM
from .tome import ToMe
from .visionzip import VisionZip
from .vispruner import VisPruner

__all__ = [
    "DART",
    "Compose",
    "DivPrune",
    "Downsample",
    "FastV",
    "FasterVLM",
    "Illava",
    "Method",
    "Pool",
    "PruMergePlus",
    "PyramidDrop",
    "Random",
    "SparseVLM",
    "ToMe",
    "VisPruner",
    "VisionZip",
    "method_from_dict",
    "methods",
    "presets",
]
