"""Measure the speed of a model, plain and accelerated."""

from .timing import Spread, Timing, interleave, measure, ratio, spread

__all__ = ["Spread", "Timing", "interleave", "measure", "ratio", "spread"]
