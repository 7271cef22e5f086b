"""Requests with drawn pictures. Request ``number`` is the same in every run."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from illava.io.pictures import open_picture

from ...drawing.canvas import COLOURS, Canvas, tone
from ...drawing.glyphs import SHAPES, shape_mask

DRAWN = 64
"""Different drawn pictures; further requests use them again, in turn."""


@functools.cache
def drawn(number: int, side: int) -> Image.Image:
    """A picture of coloured shapes, ``side`` pixels wide and high."""
    rng = np.random.default_rng([number, side])
    canvas = Canvas(rng, side)
    for _ in range(4):
        size = int(rng.integers(side // 8, side // 4))
        mask = shape_mask(str(rng.choice(SHAPES)), size, 0.0)
        left, top = (int(n) for n in rng.integers(0, side - max(mask.shape), 2))
        canvas.paint(mask, (left, top), tone(rng, str(rng.choice([*COLOURS]))))
    return canvas.picture(rng)


def data_url(picture: Image.Image) -> str:
    """A picture as a PNG in a data URL."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


class Prompts:
    """Makes the bodies of requests.

    Args:
        side: pixels a side of drawn pictures.
        pictures: a request's number of them.
        files: picture files used instead of drawn ones, in turn.
        tokens: new tokens of each answer at most.
    """

    def __init__(
        self, model: str, side: int = 448, pictures: int = 1, files: Sequence[Path] = (), tokens: int = 32
    ) -> None:
        self.model, self.pictures, self.tokens = model, pictures, tokens
        sources = [open_picture(file) for file in files] or [drawn(n, side) for n in range(DRAWN)]
        self._urls = [data_url(picture) for picture in sources]

    def body(self, number: int) -> dict[str, Any]:
        """The JSON of one streamed request, decoded greedily."""
        first = number * self.pictures
        urls = [self._urls[(first + n) % len(self._urls)] for n in range(self.pictures)]
        colour = [*COLOURS][number % len(COLOURS)]
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content.append({"type": "text", "text": f"Is there anything {colour}?"})
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
