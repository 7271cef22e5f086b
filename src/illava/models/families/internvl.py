"""InternVL and Qianfan-OCR: tiles, which the model treats as separate pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import transformers
from torch import Tensor

from ...compat.calls import Call
from .. import tiny_configs as tiny
from ..dimensions import EncoderDimensions, tiled_encoder
from ..family import Family
from ..noise import NoisePictures, noise, text_ids
from ..picture_layouts import tile_units
from ..towers import Tower
from ..workload import Run, Size, Workload, first
from .llava import FEATURES, LIKE_ONEVISION

if TYPE_CHECKING:
    from ..located import LocatedModules

MAX_TILES = 12
"""Maximum number of tiles; if there is more than one, the processor adds a thumbnail of the whole picture."""
FRAME_TOKENS = 4
"""Tokens that the processor writes before a frame: "Frame1: ", and the newline before it."""


def _scaled(block: Any, output: Tensor) -> Tensor:
    dropped: Tensor = block.dropout(output)
    return dropped if block.lambda_2 is None else dropped * block.lambda_2


TOWER = Tower(
    "encoder.layer",
    "attention",
    "layernorm_after",
    "mlp",
    "layernorm_before",
    spatial=True,
    prefix=lambda vision: 1,
    scale=_scaled,
)


def _scaled_always(block: Any, output: Tensor) -> Tensor:
    scaled: Tensor = block.drop_path2(block.lambda_2 * block.dropout(output))
    return scaled


QIANFAN_TOWER = replace(TOWER, blocks="layers", scale=_scaled_always, scale_modules=("dropout", "drop_path2"))


def _dimensions(config: Any) -> EncoderDimensions:
    width = config.get_text_config().hidden_size
    wide = round(config.vision_config.hidden_size / config.downsample_ratio**2)
    return tiled_encoder(config.vision_config, ((wide, width), (width, width)))


def _tiles(edge: int, size: Size) -> Size:
    """The arrangement of tiles whose aspect ratio is nearest to that of the picture."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    columns, rows = get_optimal_tiled_canvas((size[1], size[0]), (edge, edge), 1, MAX_TILES)
    return rows, columns


def _count(edge: int, size: Size) -> int:
    rows, columns = _tiles(edge, size)
    return rows * columns + (rows * columns > 1)


def _picture(modules: LocatedModules, size: Size, single: bool) -> Workload:
    units = tile_units(modules)
    tiles = _count(first(modules.config.vision_config.image_size), size)
    return Workload((units,) * tiles, (Run(tuple((t, units) for t in range(tiles))),), 0)


def _video(modules: LocatedModules, size: Size, frames: int) -> Workload:
    """Every frame is a picture of one tile on its own line of the prompt."""
    units = tile_units(modules)
    runs = tuple(Run(((t, units),)) for t in range(frames))
    return Workload((units,) * frames, runs, (FRAME_TOKENS + 2) * frames - 2, video=True)


def _noise(config: Any, size: Size, pictures: int, frames: int) -> NoisePictures:
    vision, token = config.vision_config, config.image_token_id
    high, wide = vision.image_size
    # The ids of the special tokens around a picture precede the placeholder's id.
    mark = [token - 2], [token - 1]
    if frames:
        run = [*text_ids(FRAME_TOKENS), *mark[0], *[token] * config.image_seq_length, *mark[1]]
        return NoisePictures({"pixel_values": noise(frames, vision.num_channels, high, wide)}, [run * frames])
    tiles = _count(high, size)
    run = [*mark[0], *[token] * (config.image_seq_length * tiles), *mark[1]]
    pixels = noise(pictures * tiles, vision.num_channels, high, wide)
    return NoisePictures({"pixel_values": pixels}, [run] * pictures)


_TILED: dict[str, Any] = {
    "unfolds_after": "vision_tower.layernorm",
    "compacts_before": "multi_modal_projector",
    "encoder_dimensions": _dimensions,
    "group": lambda config: round(1 / config.downsample_ratio) ** 2,
    "config_attributes": (*FEATURES, "downsample_ratio"),
    "functions": {
        ("transformers.models.got_ocr2.image_processing_got_ocr2", "get_optimal_tiled_canvas"): Call()
    },
    "picture": _picture,
    "tiles": _tiles,
    "picture_format": lambda config: "tiles",
}
_TINY_VISION = {**tiny.VISION, "image_size": [24, 24], "patch_size": [4, 4]}

ENTRIES = (
    Family(
        "internvl",
        LIKE_ONEVISION,
        **_TILED,
        towers={"internvl_vision": TOWER},
        video=_video,
        noise=_noise,
        tiny={
            "internvl": lambda: transformers.InternVLConfig(
                text_config={**tiny.QWEN2, "use_sliding_window": False},
                vision_config=_TINY_VISION,
                image_token_id=tiny.IMAGE,
                image_seq_length=9,
            )
        },
    ),
    Family(
        "qianfan_ocr",
        LIKE_ONEVISION,
        **_TILED,
        towers={"qianfan_ocr_vision": QIANFAN_TOWER},
        tiny={
            "qianfan_ocr": lambda: transformers.QianfanOCRConfig(
                text_config=tiny.QWEN3,
                vision_config={**_TINY_VISION, "layer_scale_init_value": 0.7},
                image_token_id=tiny.IMAGE,
                image_seq_length=9,
            )
        },
    ),
)
