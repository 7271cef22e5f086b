"""The methods: each one frozen dataclass in one file, all behind the same interface."""

from .base import Method, method_from_dict, methods
from .illava import Illava

__all__ = ["Illava", "Method", "method_from_dict", "methods"]
