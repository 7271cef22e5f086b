"""What the pixels themselves tell about each unit, for steps that read them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from ...errors import UnsupportedError
from ...methods.steps import EncoderStep
from ...models.located import LocatedModules
from ...models.workload import first
from ...ops.pixels import patches_of_tiles, pixel_complexity, pixel_cues
from ..passes import Pass
from .run import EncoderRun


def check_pixels(modules: LocatedModules) -> None:
    """Raise UnsupportedError for a model whose pixels cannot be cut into the patches of its tokens."""
    if modules.tower.masked:
        raise UnsupportedError(
            f"pixels of {modules.family.model_type}, whose pictures are padded, cannot be scored; use "
            "another encoder_score, and no complexity"
        )


def patches_of(modules: LocatedModules, pixels: Tensor) -> Tensor:
    """(N, channels, frames, patch, patch) patches of the pixel values that the image encoder gets."""
    vision = modules.config.vision_config
    patch = first(vision.patch_size)
    if modules.tower.packed:
        channels = getattr(vision, "in_channels", None) or vision.num_channels
        frames = getattr(vision, "temporal_patch_size", 1)
        return pixels.reshape(-1, channels, frames, patch, patch)
    return patches_of_tiles(pixels, patch)


class PixelCues:
    """Computes the cues of each call of the image encoder.

    The pixel values are tiles (LLaVA) or patches in the order of their units (Qwen-VL).
    """

    def __init__(self, modules: LocatedModules, steps: Collection[EncoderStep]) -> None:
        check_pixels(modules)
        self.modules = modules
        self.of_units = any(step.reads_pixels for step in steps)
        self.of_pictures = any(step.reads_complexity for step in steps)

    @staticmethod
    def are_read(steps: Collection[EncoderStep]) -> bool:
        """Whether any step reads pixels."""
        return any(step.reads_pixels or step.reads_complexity for step in steps)

    def enter(self, current: Pass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember the pixel values among the arguments of the image encoder."""
        given = (part for part in (*args, *kwargs.values()) if isinstance(part, Tensor))
        current.pixels = next(part for part in given if part.is_floating_point())

    def read(self, run: EncoderRun, current: Pass) -> None:
        """Write the cues of a run that starts. Waits once for the device if a step reads the complexity."""
        pixels, current.pixels = current.pixels, None
        assert pixels is not None
        modules, vision = self.modules, self.modules.config.vision_config
        tokens = [n * run.group for n in run.full_lengths]
        patches = patches_of(modules, pixels)
        if len(patches) != sum(tokens):
            raise UnsupportedError(
                f"pixels of {modules.family.model_type} make {len(patches)} patches where its encoder has "
                f"{sum(tokens)} tokens; use another encoder_score, and no complexity"
            )
        if self.of_pictures:
            # Numbers of survivors depend on it, which the host has to know.
            run.complexity = tuple(pixel_complexity(patches, tokens).tolist())
        if not self.of_units:
            return
        cues = pixel_cues(patches, tokens)
        if run.order is not None:
            cues = cues[run.order.to(cues.device).flatten()]
        cues = cues.view(-1, run.group).mean(1)
        order = None if run.grid is None else modules.tower.unit_order(vision, run.grid)
        run.cues = cues if order is None else cues[order.to(cues.device)]
