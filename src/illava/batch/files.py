"""The lines of IN, and the pictures that they name."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..io.texts import is_url
from ..serving.errors import ApiError, bad_request, too_large
from ..serving.pictures import (
    check_counts,
    check_pixels,
    from_data,
    is_data,
    load_pictures,
    named,
    picture_size,
)
from ..serving.schema import ChatRequest
from ..serving.settings import Settings
from ..serving.upload import MB

MAX_LINE = 128 * MB
"""The longest line that is read, in bytes. It may hold pictures."""
DIGEST_BYTES = 6


@dataclass(frozen=True)
class Line:
    """Where a row lies in IN."""

    number: int
    """From 1; empty lines count."""
    offset: int
    """Bytes before it."""
    size: int
    """Its bytes."""
    digest: str
    """Of its content: 12 hexadecimal digits."""


def read_lines(path: Path) -> Iterator[tuple[Line, bytes]]:
    """All lines that are not empty, and their content; b"" for those above :data:`MAX_LINE`.

    Raises OSError.
    """
    with path.open("rb") as file:
        number = offset = 0
        while piece := file.readline(MAX_LINE + 1):
            number, size, text = number + 1, len(piece), piece.strip()
            digest = _digest(text)
            if size > MAX_LINE:
                text = b""
                while not piece.endswith(b"\n") and (piece := file.readline(MAX_LINE)):
                    digest.update(piece)
                    size += len(piece)
            if text or size > MAX_LINE:
                yield Line(number, offset, size, digest.hexdigest()), text
            offset += size


def digest_of(text: bytes) -> str:
    """The ``digest`` of a line with this content."""
    digest: str = _digest(text.strip()).hexdigest()
    return digest


def _digest(text: bytes) -> Any:
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES)


def picture_sizes(request: ChatRequest, folder: Path, settings: Settings) -> list[tuple[int, int]]:
    """(width, height) of the pictures and frames of a request, read off their headers.

    Args:
        folder: paths are relative to it.

    Raises ApiError for pictures that are missing, too large or too many, or that are none.
    """
    sources = list(request.sources())
    check_counts(sources, settings)
    sizes = []
    for name, url in named(sources):
        if is_data(url):
            sizes.append(picture_size(name, io.BytesIO(from_data(url, name, settings))))
        else:
            path = _path(name, url, folder, settings)
            with _opened(name, path, url) as file:
                sizes.append(picture_size(f"{name}, {url}", file))
    check_pixels(sizes, settings)
    return sizes


def open_pictures(request: ChatRequest, folder: Path, settings: Settings) -> list[Image.Image]:
    """The pictures and frames of a request as 8-bit RGB images. Raises ApiError as :func:`picture_sizes`."""
    sources = list(request.sources())
    check_counts(sources, settings)
    files = {}
    for name, url in named(sources):
        if not is_data(url) and url not in files:
            with _opened(name, _path(name, url, folder, settings), url) as file:
                files[url] = file.read()
    return load_pictures(sources, files, settings)


def _path(name: str, url: str, folder: Path, settings: Settings) -> Path:
    """The file of a picture. Raises ApiError unless it is a regular one that is not too large."""
    if is_url(url):
        raise bad_request(f"{name}: URLs are not fetched; download it and give its path, or a data URL")
    path = folder / url
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        raise bad_request(f"{name}, {url[:300]}: no such file") from None
    # Opening a pipe would block.
    if not path.is_file():
        raise bad_request(f"{name}, {url}: this is not a regular file")
    if status.st_size > settings.max_picture_mb * MB:
        raise too_large(f"{name}, {url}, has more than {settings.max_picture_mb:g} MB; give a smaller one")
    return path


def _opened(name: str, path: Path, url: str) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(name, url, error) from None


def unreadable(name: str, url: str, error: OSError) -> ApiError:
    """The error for a file that is there and cannot be read."""
    return bad_request(f"{name}, {url}: it cannot be read: {error.strerror or error}")
