"""The order in which rows are answered: like beside like, large pictures first, in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .files import Line
from .rows import Row

BATCHES = 4
"""Full batches in a chunk. A stopped run loses the chunks that are being answered."""


@dataclass(frozen=True)
class Sized:
    """A row that waits for its answer: where it lies, and what it is sorted by."""

    line: Line
    options: tuple[bool, bool, str, str]
    """Whether it has videos, whether pictures, method, keep: rows of one batch have the same."""
    pixels: int
    """Of all its pictures and frames."""
    characters: int
    """Of its texts."""


def sized(line: Line, row: Row, sizes: Sequence[tuple[int, int]]) -> Sized:
    """What a row is sorted by. ``sizes``: (width, height) of its pictures and frames."""
    request = row.request
    kinds = {part.type for message in request.messages for part in message.content}
    texts = (getattr(part, "text", "") for message in request.messages for part in message.content)
    return Sized(
        line,
        ("video" in kinds, "image_url" in kinds, request.method or "", str(request.share or "")),
        sum(width * height for width, height in sizes),
        sum(map(len, texts)),
    )


def chunks(rows: Sequence[Sized], max_batch: int) -> list[list[Line]]:
    """Sort rows and cut them into chunks of :data:`BATCHES` batches.

    Rows that can be in one batch are neighbours. Among these, large pictures come first, so that a lack of
    memory shows at the start and the last chunks, for which workers wait, are short; equal ones keep the
    order of IN.
    """
    ordered = sorted(rows, key=lambda row: (row.options, -row.pixels, -row.characters, row.line.number))
    size = BATCHES * max_batch
    return [[row.line for row in ordered[start : start + size]] for start in range(0, len(ordered), size)]
