"""Prompts to measure with: noise in the shape that a family's own processor would hand over.

For models with random weights, which have no processor; real models are asked with theirs
(:func:`from_processor`). Every row of a batch is the same prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError
from ..io.pictures import InputError
from ..models.families import FAMILIES
from ..models.noise import text_ids
from ..models.workload import Size

SIDE = 16384
"""The longest side of a picture, in pixels."""
HEAD = 10
"""How many tokens of the text stand before the pictures."""


def parse_size(text: str) -> Size:
    """(width, height) in pixels from "672" or "672x448".

    Raises InputError.
    """
    found = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.strip())
    sides = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(1 <= side <= SIDE for side in sides):
        raise InputError(
            f"--size {text}: give pixels of a side, such as 672, or of both, 672x448; up to {SIDE}"
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
    """Inputs of ``generate`` for a model of a family whose entry makes pictures of noise.

    Args:
        config: of the model.
        size: (width, height) of every picture or frame in pixels, before the processor resizes it.
        pictures: in each prompt; with frames it must be 1.
        frames: of a video in the pictures' place; 0 for pictures.
        text_tokens: all tokens that are no placeholders, with one mark before and one behind each picture
            where the family has marks. What stands between the frames of a video comes on top.
        batch: equal rows.

    Returns input_ids and attention_mask (B, L), pixel values of noise in ``dtype``, and what the family
    wants beside them. Raises UnsupportedError for another family, InputError for a size that its processor
    refuses and for too few text tokens.
    """
    family = FAMILIES.get(config.model_type)
    if family is None or family.noise is None:
        known = sorted(name for name, one in FAMILIES.items() if one.noise is not None)
        raise UnsupportedError(
            f"there are no made-up prompts for model type {config.model_type!r}; there are for "
            f"{', '.join(known)}"
        )
    if frames and pictures != 1:
        raise InputError(f"give either frames of one video or several pictures, not {frames} and {pictures}")
    marks = family.picture_marks
    words = text_tokens - marks * pictures
    if words < 1:
        raise InputError(
            f"--text-tokens {text_tokens}: give at least {marks * pictures + 1}, as every picture has "
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
    inputs |= {name: t.to(dtype) if t.is_floating_point() else t for name, t in shown.values.items()}
    return {name: rows(t, batch).to(device) for name, t in inputs.items()}


def rows(values: Tensor, batch: int) -> Tensor:
    """The same prompt ``batch`` times, one behind the other along the first dimension."""
    return values.repeat(batch, *[1] * (values.dim() - 1))


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
    """Inputs that a model's own processor makes of pictures of noise and a question, as :func:`make` does.

    Args:
        text_tokens: the question gets words until this many tokens are no placeholders; templates alone may
            take more.

    Raises InputError when the processor refuses pictures of this size.
    """
    from ..io.prompts import build_prompt

    shown = [_drawn(size, number) for number in range(pictures)]

    def text_of(inputs: Any) -> int:
        return int((inputs["input_ids"] != processor.image_token_id).sum())

    question, word = "What is this?", " And this?"
    inputs = build_prompt(processor, shown, question)
    lacking = text_tokens - text_of(inputs)
    if lacking > 0:
        length = len(processor.tokenizer(question)["input_ids"])
        more = len(processor.tokenizer(question + word * lacking)["input_ids"]) - length
        words = math.ceil(lacking * lacking / max(1, more))
        inputs = build_prompt(processor, shown, question + word * words)
    inputs = inputs.to(device=device, dtype=dtype)
    return {name: rows(value, batch) for name, value in inputs.items() if isinstance(value, Tensor)}


def _drawn(size: Size, seed: int) -> Any:
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (*size[::-1], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def count(ids: Tensor | Sequence[int], config: Any) -> int:
    """Placeholders of pictures and videos among token ids."""
    kinds = {getattr(config, name, None) for name in ("image_token_id", "video_token_id")} - {None}
    flat = torch.as_tensor(ids).flatten()
    return int(torch.isin(flat, flat.new_tensor(sorted(kinds))).sum())
