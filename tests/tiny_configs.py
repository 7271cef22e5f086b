"""The package's configs of tiny models, where the tests look for them."""

from illava.doctor.tiny_configs import CONFIGS, END, IMAGE, PAD, START, TEXT, TILES, VIDEO, config

__all__ = ["CONFIGS", "END", "IMAGE", "PAD", "START", "TEXT", "TILES", "VIDEO", "config"]
