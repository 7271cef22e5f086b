"""Measures the complexity of a user's own pictures, for budgets that follow it at an equal mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..methods.budgets import Calibration, calibrated
from ..models.located import LocatedModules, locate
from ..ops.grids import frames_of
from ..ops.pixels import pixel_complexity
from ..runtime.encoder.cues import check_pixels, patches_of


def calibration_of(model: Any, prompts: Iterable[Mapping[str, Tensor]]) -> Calibration:
    """The two numbers of the experimental option ``complexity`` for which these pictures together keep the
    share ``keep`` of their units.

    Args:
        model: a transformers VLM; it does not run.
        prompts: outputs of its processor, each with at least one picture. A hundred typical ones suffice.

    Raises UnsupportedError for a model whose pixels cannot be read, and ValueError for pictures of one
    complexity.
    """
    modules, complexities, units = locate(model), list[float](), list[int]()
    check_pixels(modules)
    for inputs in prompts:
        values, counts = measure(modules, inputs)
        complexities += values
        units += counts
    return calibrated(complexities, units)


def measure(modules: LocatedModules, inputs: Mapping[str, Tensor]) -> tuple[list[float], list[int]]:
    """The complexity and the number of units of each picture, tile or frame of a processed prompt."""
    pixels = inputs["pixel_values"]
    if modules.tower.packed:
        tokens = list(frames_of(inputs["image_grid_thw"].tolist()))
    else:
        tiles = pixels.flatten(0, -4)
        # Tiles of zeros only fill a batch.
        pixels = tiles[tiles.flatten(1).any(1)]
        tokens = [len(patches_of(modules, pixels[:1]))] * len(pixels)
    values = pixel_complexity(patches_of(modules, pixels), tokens)
    return values.tolist(), [n // modules.group for n in tokens]
