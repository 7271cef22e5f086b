"""The package's configs of tiny models, where the tests look for them."""

from illava.models.tiny_configs import END, IMAGE, PAD, START, TEXT, TILES, VIDEO
from illava.models.tiny_models import CONFIGS, config

__all__ = ["CONFIGS", "END", "IMAGE", "PAD", "START", "TEXT", "TILES", "VIDEO", "config"]
