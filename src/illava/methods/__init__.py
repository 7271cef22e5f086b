"""The methods: each is a frozen dataclass in its own file, and all implement the same interface."""

# A method is listed here and in its own file only; `as` makes it a public name for type checkers.
from .base import Method as Method
from .base import method_from_dict, methods
from .compose import Compose as Compose
from .dart import DART as DART
from .divprune import DivPrune as DivPrune
from .downsample import Downsample as Downsample
from .fastervlm import FasterVLM as FasterVLM
from .fastv import FastV as FastV
from .illava import Illava as Illava
from .mmtok import MMTok as MMTok
from .pool import Pool as Pool
from .presets import make_method, presets
from .prumerge import PruMergePlus as PruMergePlus
from .pyramiddrop import PyramidDrop as PyramidDrop
from .random import Random as Random
from .sparsevlm import SparseVLM as SparseVLM
from .tome import ToMe as ToMe
from .visionzip import VisionZip as VisionZip
from .vispruner import VisPruner as VisPruner

__all__ = [
    name for name, value in list(globals().items()) if isinstance(value, type) and issubclass(value, Method)
]
__all__ += ["make_method", "method_from_dict", "methods", "presets"]
