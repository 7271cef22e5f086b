"""Prompts for measurements, with images of noise.

:func:`make` creates inputs of the shapes that a family's processor returns, for models with random weights,
which have no processor. :func:`from_processor` uses the processor of a model. Every row of a batch is the
same prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..io.pictures import InputError
from ..models.layout import FRAME_TOKENS, MOST_TILES, TIME_TOKENS, UNITS, Size, resized

SIDE = 16384
"""The longest side of an image, in pixels."""
TEXT, HEAD = range(3, 43), 10
"""Token ids of the text, which are words in every vocabulary, and how many of them precede the images."""


@dataclass(frozen=True)
class _Visual:
    """The images, or the video, of one prompt."""

    values: dict[str, Tensor]
    """Inputs of the encoder, all images concatenated."""
    runs: list[list[int]]
    """Token ids of each image or video, with the marks around it."""


def parse_size(text: str) -> Size:
    """Parse (width, height) in pixels from "672" or "672x448".

    Raises InputError.
    """
    found = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.strip())
    sides = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(1 <= side <= SIDE for side in sides):
        raise InputError(
            f"--size {text}: give the side in pixels, such as 672, or WIDTHxHEIGHT, such as 672x448; "
            f"at most {SIDE}"
        )
    return sides


def make(
    config: Any,
    size: Size,
    *,
    pictures: int = 1,
    frames: int = 0,
    text_tokens: int = 47,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Create inputs of ``generate`` for a model of a Qwen-VL, LLaVA-OneVision or InternVL family.

    Args:
        config: the model's config.
        size: (width, height) of every image or frame in pixels, before the processor resizes it.
        pictures: number of images in each prompt; must be 1 with frames.
        frames: number of frames of a video instead of images; 0 for images.
        text_tokens: number of tokens that are not placeholders, including the marks before and after each
            image where the family has them, excluding tokens between the frames of a video.
        batch: number of rows, all equal.

    Returns input_ids and attention_mask (B, L), pixel values of noise in ``dtype``, and the family's other
    inputs. Raises UnsupportedError for another family, InputError for a size that its processor rejects and
    for too few text tokens.
    """
    makers = {"llava_onevision": _onevision, "internvl": _internvl, **dict.fromkeys(UNITS, _qwen)}
    if config.model_type not in makers:
        raise UnsupportedError(
            f"cannot create prompts for model type {config.model_type!r}; supported are "
            f"{', '.join(sorted(makers))}"
        )
    if frames and pictures != 1:
        raise InputError(f"give either --frames {frames} or --pictures {pictures}, not both")
    marks = 0 if config.model_type == "llava_onevision" else 2
    words = text_tokens - marks * pictures
    if words < 1:
        raise InputError(
            f"--text-tokens {text_tokens}: give at least {marks * pictures + 1}, because every image has "
            f"{marks} marks around it and a prompt must end with text"
        )
    visual = makers[config.model_type](config, size, pictures, frames)
    before = min(HEAD, (words - 1) // 2)
    ids = [*_text(before), *(token for run in visual.runs for token in run), *_text(words - before)]
    row = torch.tensor([ids])
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    if config.model_type in UNITS:
        kinds = (row == config.image_token_id).int() + 2 * (row == config.video_token_id).int()
        inputs["mm_token_type_ids"] = kinds
    return _batched({**inputs, **visual.values}, batch, dtype, device)


def _batched(
    inputs: Mapping[str, Any], batch: int, dtype: torch.dtype, device: torch.device | str
) -> dict[str, Tensor]:
    """The tensors of one prompt, repeated ``batch`` times along the first dimension."""
    return {
        name: value.repeat(batch, *[1] * (value.dim() - 1)).to(
            device, dtype if value.is_floating_point() else None
        )
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    }


def _text(count: int) -> list[int]:
    return [TEXT[i % len(TEXT)] for i in range(count)]


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _qwen(config: Any, size: Size, pictures: int, frames: int) -> _Visual:
    """Sides are rounded to multiples of the merged patches; two frames form one temporal patch."""
    vision = config.vision_config
    patch, merge, pair = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    try:
        width, height = resized(config, size)
    except ValueError as error:
        raise InputError(f"--size {size[0]}x{size[1]}: {error}") from error
    count = math.ceil(frames / pair) if frames else pictures
    down, across = height // patch, width // patch
    pixels = _noise(count * down * across, vision.in_channels * pair * patch**2)
    tokens = down * across // merge**2
    start, end = config.vision_start_token_id, config.vision_end_token_id
    if not frames:
        grid = torch.tensor([[1, down, across]] * pictures)
        run = [start, *[config.image_token_id] * tokens, end]
        return _Visual({"pixel_values": pixels, "image_grid_thw": grid}, [run] * pictures)
    video = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[count, down, across]])}
    placeholders = [config.video_token_id] * tokens
    if config.model_type == "qwen3_vl":
        frame = [*_text(TIME_TOKENS), start, *placeholders, end]
        return _Visual(video, [frame * count])
    return _Visual(video, [[start, *placeholders * count, end]])


def _onevision(config: Any, size: Size, pictures: int, frames: int) -> _Visual:
    """One image is encoded in tiles and as a whole, with a newline feature after each row of the tiles.

    Several images, and the frames of a video, are encoded as a whole only.
    """
    from transformers.image_processing_utils import select_best_resolution

    vision = config.vision_config
    tile, side = vision.image_size, vision.image_size // vision.patch_size
    if frames:
        # Pooled by 2, and one newline feature at the end.
        tokens = frames * math.ceil(side / 2) ** 2 + 1
        pixels = _noise(1, frames, vision.num_channels, tile, tile)
        return _Visual({"pixel_values_videos": pixels}, [[config.video_token_id] * tokens])
    # From here on sizes are (height, width), as in transformers.
    shape = size[::-1]
    image_sizes = torch.tensor([shape] * pictures)
    if pictures > 1:
        values = {
            "pixel_values": _noise(pictures, 1, vision.num_channels, tile, tile),
            "image_sizes": image_sizes,
            "batch_num_images": torch.tensor([pictures]),
        }
        return _Visual(values, [[config.image_token_id] * (side**2 + 1)] * pictures)
    best = select_best_resolution(shape, config.image_grid_pinpoints)
    high, wide = (length // tile for length in best)
    down, across = _unpadded(shape, high * side, wide * side)
    # Features are scaled down to those of at most this many tiles.
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(down * across / (most * side**2))
    if ratio > 1.1:
        down, across = int(down // ratio), int(across // ratio)
    tokens = side**2 + down * (across + 1)
    pixels = _noise(1, high * wide + 1, vision.num_channels, tile, tile)
    return _Visual({"pixel_values": pixels, "image_sizes": image_sizes}, [[config.image_token_id] * tokens])


def _unpadded(shape: Size, down: int, across: int) -> tuple[int, int]:
    """Rows and columns of features without those that cover only the padding around an image."""
    height, width = shape
    if width / height > across / down:
        return down - 2 * ((down - int(round(height * (across / width), 7))) // 2), across
    return down, across - 2 * ((across - int(round(width * (down / height), 7))) // 2)


def _internvl(config: Any, size: Size, pictures: int, frames: int) -> _Visual:
    """Tiles in the grid closest to the image's aspect ratio, plus a thumbnail; a frame is one tile."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    vision, token = config.vision_config, config.image_token_id
    high, wide = vision.image_size
    # The ids of the marks precede the placeholder's.
    mark = [token - 2], [token - 1]
    if frames:
        run = [*_text(FRAME_TOKENS), *mark[0], *[token] * config.image_seq_length, *mark[1]]
        return _Visual({"pixel_values": _noise(frames, vision.num_channels, high, wide)}, [run * frames])
    across, down = get_optimal_tiled_canvas(size[::-1], (high, wide), 1, MOST_TILES)
    tiles = across * down + (across * down > 1)
    run = [*mark[0], *[token] * (config.image_seq_length * tiles), *mark[1]]
    pixels = _noise(pictures * tiles, vision.num_channels, high, wide)
    return _Visual({"pixel_values": pixels}, [run] * pictures)


def from_processor(
    processor: Any,
    size: Size,
    *,
    pictures: int = 1,
    text_tokens: int = 47,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Create the inputs of :func:`make` with a model's processor, from images of noise and a question.

    Args:
        text_tokens: the question is lengthened until this many tokens are not placeholders; a chat template
            alone may have more.

    Raises InputError if the processor rejects images of this size.
    """
    from ..io.prompts import build_prompt

    images = [_noise_image(size, number) for number in range(pictures)]

    def text_length(inputs: Any) -> int:
        return int((inputs["input_ids"] != processor.image_token_id).sum())

    question, word = "What is this?", " And this?"
    inputs = build_prompt(processor, images, question)
    lacking = text_tokens - text_length(inputs)
    if lacking > 0:
        length = len(processor.tokenizer(question)["input_ids"])
        more = len(processor.tokenizer(question + word * lacking)["input_ids"]) - length
        words = math.ceil(lacking * lacking / max(1, more))
        inputs = build_prompt(processor, images, question + word * words)
    return _batched(inputs, batch, dtype, device)


def _noise_image(size: Size, seed: int) -> Any:
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (*size[::-1], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def count(ids: Tensor | Sequence[int], config: Any) -> int:
    """Count the placeholders of images and videos among token ids."""
    kinds = {getattr(config, name, None) for name in ("image_token_id", "video_token_id")} - {None}
    flat = torch.as_tensor(ids).flatten()
    return int(torch.isin(flat, flat.new_tensor(sorted(kinds))).sum())
