"""Idefics3 and SmolVLM: tiles with text between them, which the model treats as separate pictures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import transformers

from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, tiled_encoder
from ..family import ANY, Family
from ..picture_layouts import tile_units
from ..towers import SIGLIP_IN_SQUARES
from ..workload import Run, Size, Workload
from .llava import LIKE_ONEVISION

if TYPE_CHECKING:
    from ..located import LocatedModules

LONGER_EDGE = 4
"""The processor resizes a picture so that its longer edge has this many tiles."""


def _dimensions(config: Any) -> EncoderDimensions:
    wide = config.vision_config.hidden_size * config.scale_factor**2
    return tiled_encoder(config.vision_config, ((wide, config.get_text_config().hidden_size),))


def _tiles(edge: int, size: Size) -> Size:
    """The longer edge has four tiles, the shorter one as many as needed to cover it."""
    width, height = size
    longest = max(width, height)
    return math.ceil(LONGER_EDGE * height / longest), math.ceil(LONGER_EDGE * width / longest)


def _picture(modules: LocatedModules, size: Size, single: bool) -> Workload:
    units = tile_units(modules)
    rows, columns = _tiles(0, size)
    tiles = rows * columns + 1 if rows * columns > 1 else 1
    # A special token and a name before each tile, a newline after each row, two special tokens at the last.
    marks = 2 * tiles + rows + 2
    return Workload((units,) * tiles, tuple(Run(((t, units),)) for t in range(tiles)), marks)


_IDEFICS: dict[str, Any] = {
    "encoder": "vision_model",
    "projector": "connector.modality_projection",
    "unfolds_before": "connector",
    "compacts_before": "connector.modality_projection",
    "towers": {ANY: SIGLIP_IN_SQUARES},
    "encoder_dimensions": _dimensions,
    "group": lambda config: int(config.scale_factor**2),
    "llm": "text_model",
    "config_attributes": ("scale_factor",),
    "picture": _picture,
    "tiles": _tiles,
    "picture_format": lambda config: "marked_tiles",
}
_TINY: dict[str, Any] = dict(
    text_config=tiny.LLAMA,
    vision_config={**tiny.VISION, "image_size": 24, "patch_size": 4},
    image_token_id=tiny.IMAGE,
    scale_factor=2,
    pad_token_id=tiny.PAD,
)

ENTRIES = (
    Family(
        "idefics3",
        LIKE_ONEVISION,
        **_IDEFICS,
        tiny={"idefics3": lambda: transformers.Idefics3Config(**_TINY)},
    ),
    Family(
        "smolvlm",
        LIKE_ONEVISION,
        **_IDEFICS,
        tiny={"smolvlm": lambda: transformers.SmolVLMConfig(**_TINY)},
    ),
)
