"""The package's configs of tiny models, where the tests look for them."""

from illava.doctor.tiny import CONFIGS, config
from illava.models.tiny_configs import END, IMAGE, PAD, START, TEXT, TILES, VIDEO

__all__ = ["CONFIGS", "END", "IMAGE", "PAD", "START", "TEXT", "TILES", "VIDEO", "config"]
