"""Prompts for measurements, with images of noise.

:func:`make` creates inputs of the shapes that a family's processor returns, for models with random weights,
which have no processor. :func:`from_processor` uses the processor of a model. Every row of a batch is the
same prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..io.pictures import InputError
from ..models.families import FAMILIES
from ..models.noise import text_ids
from ..models.placeholders import visual_counts
from ..models.workload import Size

SIDE = 16384
"""The longest side of an image, in pixels."""
HEAD = 10
"""How many tokens of the text precede the images."""


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
    """Create inputs of ``generate`` for a model whose family's entry makes images of noise.

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
    family = FAMILIES.get(config.model_type)
    if family is None or family.noise is None:
        known = sorted(name for name, one in FAMILIES.items() if one.noise is not None)
        raise UnsupportedError(
            f"cannot create prompts for model type {config.model_type!r}; supported are {', '.join(known)}"
        )
    if frames and pictures != 1:
        raise InputError(f"give either --frames {frames} or --pictures {pictures}, not both")
    marks = family.picture_marks
    words = text_tokens - marks * pictures
    if words < 1:
        raise InputError(
            f"--text-tokens {text_tokens}: give at least {marks * pictures + 1}, because every image has "
            f"{marks} marks around it and a prompt must end with text"
        )
    try:
        shown = family.noise(config, size, pictures, frames)
    except ValueError as error:
        raise InputError(f"--size {size[0]}x{size[1]}: {error}") from error
    before = min(HEAD, (words - 1) // 2)
    ids = [*text_ids(before), *(token for run in shown.runs for token in run), *text_ids(words - before)]
    row = torch.tensor([ids])
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    video = getattr(config, "video_token_id", None)
    kinds = (row == config.image_token_id).int() + 2 * (row == (-1 if video is None else video)).int()
    inputs |= family.token_types(kinds)
    return _batched({**inputs, **shown.values}, batch, dtype, device)


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
    return visual_counts(config, torch.as_tensor(ids).reshape(1, -1))[0]
