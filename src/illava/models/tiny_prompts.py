"""Prompts with small images of noise, in the format of each family's processor.

Sizes and token ids come from the model's config, so this works for tiny and for published models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .families import family_of
from .picture_layouts import anyres_tiles
from .processed import processed_size, takes_any_size
from .tiny_configs import END, IMAGE, PAD, START
from .workload import first

TIMM_SIDE = 64
"""Pixels per side where a config does not state them."""
BREAK, LAST = 96, 97  # Pixtral's row breaks; any text tokens will do.


@dataclass
class Picture:
    """One image as a family's processor would prepare it."""

    values: dict[str, Tensor]
    """Arguments of the model's forward: pixel values, and their sizes if the family has them."""
    ids: list[int]
    """The token ids of the image."""
    placeholder: int = IMAGE
    """The id of the visual tokens among them."""

    @property
    def tokens(self) -> int:
        return self.ids.count(self.placeholder)


def kind(model: nn.Module) -> str:
    """How the processor of this model's family prepares pictures: a key of :data:`SIZES`."""
    return family_of(model.config).picture_format(model.config)


SIZES = {
    "square": ((1, 1),),
    "tile": ((1, 1),),
    "grid": ((5, 6), (3, 4), (4, 4)),
    "patches": ((5, 6), (3, 4), (4, 4)),
    "lines": ((5, 6), (3, 4), (4, 4)),
    "anyres": ((40, 30), (20, 44), (24, 24)),
    "tiles": ((3, 1), (1, 1), (2, 1)),
    "marked_tiles": ((3, 1), (1, 1), (2, 1)),
}
"""(rows, columns) as :func:`picture` takes them, by the format of pictures:

- "square": one size for all;
- "tile": the same, as a list of one tile (PerceptionLM);
- "grid": patches of pictures of any size in one sequence (Qwen-VL);
- "patches": the same, each patch with its rows and columns, in raster order (PaddleOCR-VL);
- "lines": pictures of any size, a token after each line (Pixtral);
- "anyres": tiles and their picture's size (LLaVA-NeXT); the sizes suit tiles of 24 pixels;
- "tiles": tiles without anything else (InternVL);
- "marked_tiles": the same, with text between them (Idefics3).
"""


def picture(model: nn.Module, size: tuple[int, int], seed: int = 0) -> Picture:
    """An image of noise, float32 on the CPU.

    Args:
        size: (rows, columns), in pixels for "anyres", in tiles for "tiles" and "marked_tiles", otherwise in
            units.
    """
    generator = torch.Generator().manual_seed(seed)
    config: Any = model.config
    family, vision, token = family_of(config), config.vision_config, config.image_token_id
    rows, columns = size

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def build(values: dict[str, Tensor], ids: list[int]) -> Picture:
        return Picture(values, ids, token)

    match kind(model):
        case "anyres":
            side, tiles = _side(vision), anyres_tiles(config, (columns, rows))
            values = {"pixel_values": noise(1, tiles, 3, side, side), "image_sizes": torch.tensor([size])}
            with torch.no_grad():
                features = model.model.get_image_features(**like(model, values)).pooler_output  # type: ignore[operator, union-attr]
            return build(values, [token] * sum(len(part) for part in features))
        case "square" | "tile":
            wide = high = _side(vision)
            if takes_any_size(family, config):
                wide, high = processed_size(family, config)
            if family.features is not None:
                tokens = family.features(config)
            else:
                patch = first(vision.patch_size)
                tokens = (high // patch) * (wide // patch) // family.group(config)
                tokens += family.prefix_features(config)
            pixels = noise(1, 3, high, wide)
            values = {"pixel_values": pixels[None] if kind(model) == "tile" else pixels}
            if (second := getattr(config, "high_res_vision_config", None)) is not None:
                values["high_res_pixel_values"] = noise(1, 3, *[_side(second)] * 2)
            return build(values, [token] * tokens)
        case "tiles":
            side, tiles = _side(vision), rows * columns
            return build(
                {"pixel_values": noise(tiles, 3, side, side)}, [token] * config.image_seq_length * tiles
            )
        case "marked_tiles":
            side, tiles = _side(vision), rows * columns
            tokens = (side // vision.patch_size) ** 2 // family.group(config)
            tokens = tokens if family.features is None else family.features(config)
            ids = [i for tile in range(tiles) for i in [BREAK - tile % 2, *[token] * tokens]]
            return build({"pixel_values": noise(1, tiles, 3, side, side)}, ids[1:])
        case "lines":
            unit = vision.patch_size * math.isqrt(family.group(config))
            sizes = torch.tensor([[rows * unit, columns * unit]])
            ids = [*([*[token] * columns, BREAK] * rows)[:-1], LAST]
            return build({"pixel_values": noise(1, 3, *sizes[0].tolist()), "image_sizes": sizes}, ids)
    merge = math.isqrt(family.group(config))
    frames = getattr(vision, "temporal_patch_size", getattr(vision, "patch_temporal", 1))
    each: tuple[int, ...] = (3 * frames * vision.patch_size**2,)
    if kind(model) == "patches":
        each = (3, vision.patch_size, vision.patch_size)
    pixels = noise(rows * columns * merge**2, *each)
    grid = torch.tensor([[1, rows * merge, columns * merge]])
    return build({"pixel_values": pixels, "image_grid_thw": grid}, [token] * rows * columns)


def pictures(model: nn.Module, count: int, seed: int = 0) -> list[Picture]:
    """Images of different sizes, if the family supports that."""
    sizes = SIZES[kind(model)]
    if kind(model) == "anyres":
        side = _side(model.config.vision_config)  # type: ignore[union-attr]
        sizes = tuple((side * rows // 24, side * columns // 24) for rows, columns in sizes)
    return [picture(model, sizes[i % len(sizes)], seed + i) for i in range(count)]


def row(
    text: list[int], parts: list[Picture], marks: tuple[int, int] = (START, END), first: int = 1
) -> list[int]:
    """Token ids of one prompt: a text token before every image, then all of the text."""
    ids = [first]
    for i, part in enumerate(parts):
        ids += [text[i % len(text)], marks[0], *part.ids, marks[1]]
    return ids + text


def prompt(model: nn.Module, rows: list[tuple[list[int], list[Picture]]]) -> dict[str, Tensor]:
    """A left-padded batch of (text token ids, images)."""
    config: Any = model.config
    ids = [row(text, parts, marks(config)) for text, parts in rows]
    length = max(map(len, ids))
    inputs = {
        "input_ids": torch.tensor([[PAD] * (length - len(r)) + r for r in ids]),
        "attention_mask": torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in ids]),
    }
    prepared = kind(model)
    inputs |= family_of(config).token_types((inputs["input_ids"] == config.image_token_id).int())
    parts = [part for _, row_parts in rows for part in row_parts]
    if not parts:
        return inputs
    pixels = [part.values["pixel_values"] for part in parts]
    rest = {name: join(parts, name) for name in parts[0].values if name != "pixel_values"}
    if prepared == "anyres":
        # The processor pads to the largest number of tiles.
        most = max(tiles.shape[1] for tiles in pixels)
        pixels = [nn.functional.pad(t, (0, 0) * 3 + (0, most - t.shape[1])) for t in pixels]
    elif prepared == "lines":
        high, wide = (max(p.shape[axis] for p in pixels) for axis in (2, 3))
        pixels = [nn.functional.pad(p, (0, wide - p.shape[3], 0, high - p.shape[2])) for p in pixels]
    elif prepared == "marked_tiles":
        # One row of tiles a prompt, filled up with empty ones.
        by_row = [[part.values["pixel_values"][0] for part in row_parts] for _, row_parts in rows]
        most = max(sum(map(len, tiles)) for tiles in by_row)
        empty = torch.zeros(most, *pixels[0].shape[2:])
        pixels = [torch.cat([*tiles, empty])[None, :most] for tiles in by_row]
    return {**inputs, "pixel_values": torch.cat(pixels), **rest}


def marks(config: Any) -> tuple[int, int]:
    """The token ids before and after an image; text tokens if the family has none."""
    names = (("vision_start_token_id", "image_start_token_id"), ("vision_end_token_id", "image_end_token_id"))
    start, end = (
        next((getattr(config, name) for name in pair if getattr(config, name, None) is not None), None)
        for pair in names
    )
    start = getattr(config, "boi_token_index", None) if start is None else start
    end = getattr(config, "eoi_token_index", None) if end is None else end
    return START if start is None else start, END if end is None else end


def join(parts: list[Picture], name: str) -> Tensor:
    """Concatenate an argument of several images along the first dimension."""
    return torch.cat([part.values[name] for part in parts])


def like(model: nn.Module, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """``values`` on the device of the model's inputs, floating-point tensors in the model's dtype."""
    dtype: Any = model.dtype
    place = device_of(model)
    return {n: v.to(place, dtype if v.is_floating_point() else None) for n, v in values.items()}


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's inputs, also if accelerate has offloaded its weights."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    hook = getattr(embedding, "_hf_hook", None)
    place = getattr(hook, "execution_device", None)
    return torch.device(embedding.weight.device if place is None else place)


def _side(vision: Any) -> int:
    """The side of a tile in pixels."""
    size = getattr(getattr(vision, "sam_config", vision), "image_size", None)
    if size is None:
        size = vision.model_args.get("img_size", TIMM_SIDE)
    return int(size if isinstance(size, int) else size[0])
