"""Pictures as transformers' own image processors hand them over, and what part of one each tile shows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import transformers
from torch import Tensor, nn

from tests.battery.naive import SQUARES
from tests.tiny import Picture, kind, picture
from tests.tiny_configs import TILES

PLAIN = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
PROCESSORS = dict.fromkeys(("glm4v", "glm4v_moe", "glm46v", "glm_ocr"), transformers.Glm4vImageProcessor) | {
    "cosmos3_edge": transformers.Cosmos3EdgeImageProcessor,
    "paddleocr_vl": transformers.PaddleOCRVLImageProcessor,
}
"""Of families of packed encoders, where it is not Qwen2-VL's."""
WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass
class Canvas:
    """A picture that can be painted on."""

    size: tuple[int, int]
    """Rows and columns, as ``tests.tiny.picture`` takes them."""
    pixels: tuple[int, int]
    cells: tuple[int, int]
    """Rows and columns of squares, each of which is one unit wherever the picture is not resampled."""
    tiles: tuple[tuple[float, float, float, float], ...] = (WHOLE,)
    """x0, y0, x1, y1 of what each picture of the report shows of it."""
    resampled: bool = False


def canvases(model: nn.Module) -> list[Canvas]:
    """Two pictures of different size and number of tiles, where a family has any."""
    family, vision = model.config.model_type, model.config.vision_config
    match kind(model):
        case "anyres":
            return [Canvas(size, size, (6, 6), resampled=True) for size in ((40, 30), (20, 44))]
        case _ if family == "idefics2":
            # Its processor cuts pictures into four or none.
            return [Canvas((1, 1), (24, 24), (6, 6))] * 2
        case "square":
            side = 3 if family in SQUARES else 6
            return [Canvas((1, 1), (24, 24), (side, side))] * 2
        case "grid" | "patches" | "lines":
            unit = vision.patch_size * (1 if family == "llava" else 2)
            sizes = ((5, 6), (4, 3))
            return [Canvas(s, (s[0] * unit, s[1] * unit), s) for s in sizes]
    return [in_tiles(3, 4), in_tiles(1, 2)]


def in_tiles(rows: int, columns: int) -> Canvas:
    """Row by row, and a small one of the whole picture."""
    tiles = [
        (x / columns, y / rows, (x + 1) / columns, (y + 1) / rows)
        for y in range(rows)
        for x in range(columns)
    ]
    count = rows * columns + 1
    size = (rows * 24, columns * 24)
    return Canvas((count, 1), size, (rows * 3, columns * 3), (*tiles, WHOLE), resampled=True)


def processed(model: nn.Module, canvas: Canvas, image: Tensor) -> Picture:
    """(3, H, W) pixels as the family's processor prepares them."""
    part = picture(model, canvas.size)
    square, patch = {"height": 24, "width": 24}, getattr(model.config.vision_config, "patch_size", 4)
    any_size = {"shortest_edge": 1, "longest_edge": 10**8}
    family = model.config.model_type
    options: dict[str, object] = {}
    match kind(model):
        case "square":
            return replace(part, values={"pixel_values": image[None]})
        case _ if family == "idefics2":
            return replace(part, values={"pixel_values": image[None, None]})
        case "anyres" if family == "llava_onevision":
            processor = transformers.LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=TILES)
        case "anyres":
            processor = transformers.LlavaNextImageProcessor(
                size={"shortest_edge": 24}, crop_size=square, image_grid_pinpoints=TILES
            )
        case "lines":
            side = patch * (1 if family == "llava" else 2)
            processor = transformers.PixtralImageProcessor(
                patch_size={"height": side, "width": side}, size={"longest_edge": 64}
            )
        case "tiles":
            processor = transformers.GotOcr2ImageProcessor(size=square)
            options = {"crop_to_patches": True, "min_patches": 1, "max_patches": 12}
        case "marked_tiles":
            processor = transformers.Idefics3ImageProcessor(
                size={"longest_edge": max(canvas.pixels)}, max_image_size={"longest_edge": 24}
            )
        case _:
            made = PROCESSORS.get(family, transformers.Qwen2VLImageProcessor)
            processor = made(patch_size=patch, merge_size=2, size=any_size)
    out = processor(images=[image], **PLAIN, **options)
    values = {name: torch.as_tensor(out[name]) for name in part.values}
    for name, value in part.values.items():
        assert values[name].shape == value.shape, (name, values[name].shape, value.shape)
    assert kind(model) != "marked_tiles" or values["pixel_values"].any(-1).any()
    return replace(part, values=values)
