"""Prompts with small images of noise, in the format of each family's processor.

Sizes and token ids come from the model's config, so this works for tiny and for published models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .tiny_configs import END, IMAGE, PAD, START

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


IN_TILES = ("llava_onevision", "llava_next", "llava_next_video")
RUNS_OF_TILES = ("idefics3", "smolvlm")
SQUARE = ("clip_vision_model", "siglip_vision_model")


def kind(model: nn.Module) -> str:
    """The way that the processor of this model's family prepares images."""
    config: Any = model.config
    family = config.model_type
    if family in IN_TILES:
        return "anyres"
    if family in (*RUNS_OF_TILES, "internvl"):
        return str(family)
    if config.vision_config.model_type == "pixtral":
        return "pixtral"
    return "square" if config.vision_config.model_type in SQUARE else "grid"


SIZES = {
    "anyres": ((40, 30), (20, 44), (24, 24)),
    "grid": ((5, 6), (3, 4), (4, 4)),
    "pixtral": ((5, 6), (3, 4), (4, 4)),
    "square": ((1, 1),),
    "internvl": ((3, 1), (1, 1), (2, 1)),
    "idefics3": ((3, 1), (1, 1), (2, 1)),
    "smolvlm": ((3, 1), (1, 1), (2, 1)),
}
"""(rows, columns) for :func:`picture`; those of anyres are for tiles of 24 pixels."""


def picture(model: nn.Module, size: tuple[int, int], seed: int = 0) -> Picture:
    """An image of noise, float32 on the CPU.

    Args:
        size: (rows, columns), in pixels for anyres, in tiles for InternVL and Idefics3, otherwise in units.
    """
    generator = torch.Generator().manual_seed(seed)
    config: Any = model.config
    vision, (rows, columns), token = config.vision_config, size, config.image_token_id

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def build(values: dict[str, Tensor], ids: list[int]) -> Picture:
        return Picture(values, ids, token)

    match kind(model):
        case "anyres":
            from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

            side = _side(vision)
            tiles = image_size_to_num_patches(list(size), config.image_grid_pinpoints, side)
            values = {"pixel_values": noise(1, tiles, 3, side, side), "image_sizes": torch.tensor([size])}
            with torch.no_grad():
                features = model.model.get_image_features(**like(model, values)).pooler_output  # type: ignore[operator, union-attr]
            return build(values, [token] * sum(len(part) for part in features))
        case "square":
            side = _side(vision)
            extra = vision.model_type == "clip_vision_model" and (
                getattr(config, "vision_feature_select_strategy", "default") == "full"
            )
            tokens = getattr(config, "mm_tokens_per_image", (side // vision.patch_size) ** 2)
            return build({"pixel_values": noise(1, 3, side, side)}, [token] * (tokens + extra))
        case "internvl":
            side, tiles = _side(vision), rows * columns
            return build(
                {"pixel_values": noise(tiles, 3, side, side)}, [token] * config.image_seq_length * tiles
            )
        case "idefics3" | "smolvlm":
            side, tiles = _side(vision), rows * columns
            tokens = (side // vision.patch_size) ** 2 // config.scale_factor**2
            ids = [i for tile in range(tiles) for i in [BREAK - tile % 2, *[token] * tokens]]
            return build({"pixel_values": noise(1, tiles, 3, side, side)}, ids[1:])
        case "pixtral":
            unit = vision.patch_size * (config.spatial_merge_size if config.model_type == "mistral3" else 1)
            sizes = torch.tensor([[rows * unit, columns * unit]])
            ids = [*([*[token] * columns, BREAK] * rows)[:-1], LAST]
            return build({"pixel_values": noise(1, 3, *sizes[0].tolist()), "image_sizes": sizes}, ids)
    merge = vision.spatial_merge_size
    pixels = noise(rows * columns * merge**2, 3 * vision.temporal_patch_size * vision.patch_size**2)
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
    prepared, image = kind(model), inputs["input_ids"] == config.image_token_id
    if prepared == "grid":
        inputs["mm_token_type_ids"] = image.int()
    elif config.model_type == "gemma3":
        inputs["token_type_ids"] = image.long()
    elif config.model_type == "paligemma":
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    parts = [part for _, row_parts in rows for part in row_parts]
    if not parts:
        return inputs
    pixels = [part.values["pixel_values"] for part in parts]
    rest = {name: join(parts, name) for name in parts[0].values if name != "pixel_values"}
    if prepared == "anyres":
        # The processor pads to the largest number of tiles.
        most = max(tiles.shape[1] for tiles in pixels)
        pixels = [nn.functional.pad(t, (0, 0) * 3 + (0, most - t.shape[1])) for t in pixels]
    elif prepared == "pixtral":
        high, wide = (max(p.shape[axis] for p in pixels) for axis in (2, 3))
        pixels = [nn.functional.pad(p, (0, wide - p.shape[3], 0, high - p.shape[2])) for p in pixels]
    elif prepared in RUNS_OF_TILES:
        # One row of tiles per prompt, padded with empty tiles.
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
    size = vision.image_size
    return int(size if isinstance(size, int) else size[0])
