"""What the pixels themselves tell about each unit, for steps that read them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...errors import UnsupportedError
from ...models.located import LocatedModules
from ...models.workload import first
from ...ops.pixels import patches_of_tiles, pixel_cues
from ..passes import Pass
from .run import EncoderRun


class PixelCues:
    """Computes the cues of each call of the image encoder.

    The pixel values are tiles (LLaVA) or patches in the order of their units (Qwen-VL).
    """

    def __init__(self, modules: LocatedModules) -> None:
        if modules.tower.masked:
            raise UnsupportedError(
                f"pixels of {modules.family.model_type}, whose pictures are padded, cannot be scored; use "
                "another encoder_score"
            )
        self.modules = modules

    def enter(self, current: Pass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember the pixel values among the arguments of the image encoder."""
        given = (part for part in (*args, *kwargs.values()) if isinstance(part, Tensor))
        current.pixels = next(part for part in given if part.is_floating_point())

    def read(self, run: EncoderRun, current: Pass) -> None:
        """Write the cues of a run that starts."""
        pixels, current.pixels = current.pixels, None
        assert pixels is not None
        modules, vision = self.modules, self.modules.config.vision_config
        patch, tokens = first(vision.patch_size), [n * run.group for n in run.full_lengths]
        if modules.tower.packed:
            patches = pixels.view(len(pixels), -1, vision.temporal_patch_size, patch, patch)
        else:
            patches = patches_of_tiles(pixels, patch)
        if len(patches) != sum(tokens):
            raise UnsupportedError(
                f"pixels of {modules.family.model_type} make {len(patches)} patches where its encoder has "
                f"{sum(tokens)} tokens; use another encoder_score"
            )
        cues = pixel_cues(patches, tokens)
        if run.order is not None:
            cues = cues[run.order.to(cues.device).flatten()]
        cues = cues.view(-1, run.group).mean(1)
        order = None if run.grid is None else modules.tower.unit_order(vision, run.grid)
        run.cues = cues if order is None else cues[order.to(cues.device)]
