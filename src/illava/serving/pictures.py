"""Decodes the pictures of a request: data URLs and fetched files, with limits that hold before decoding."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import IO

from PIL import Image

from ..errors import InputError
from ..io.pictures import decode
from .errors import bad_request, too_large
from .settings import Settings
from .upload import MB

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""What OpenAI's API takes. Few decoders means few of their faults."""
DATA = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


def is_data(url: str) -> bool:
    """Whether this is a data URL of any kind."""
    return url[:5].lower() == "data:"


def check_counts(sources: Sequence[tuple[str, str]], settings: Settings) -> None:
    """Raise ApiError for more pictures or frames than allowed. ``sources`` are (kind, URL)."""
    for kind, name, most in (
        ("image", "pictures", settings.max_pictures),
        ("frame", "video frames", settings.max_frames),
    ):
        count = sum(found == kind for found, _ in sources)
        if count > most:
            raise bad_request(f"{count} {name} are too many; send at most {most}", "messages")


def load_pictures(
    sources: Sequence[tuple[str, str]], fetched: Mapping[str, bytes], settings: Settings
) -> list[Image.Image]:
    """Decode all pictures and frames of a request to 8-bit RGB.

    Args:
        sources: (kind, URL) of each.
        fetched: the files behind the http(s) URLs.

    Raises ApiError for a picture that is too large or cannot be read, and for more pixels than allowed in
    all: pixels are counted from the headers, before anything is decoded.
    """
    files = []
    for name, url in named(sources):
        files.append((name, from_data(url, name, settings) if is_data(url) else fetched[url]))
    check_pixels([picture_size(name, io.BytesIO(file)) for name, file in files], settings)
    return [_decode(name, file) for name, file in files]


def named(sources: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """(name in errors, URL) of each of the (kind, URL)."""
    return [(f"{kind} {number}", url) for number, (kind, url) in enumerate(sources, 1)]


def check_pixels(sizes: Sequence[tuple[int, int]], settings: Settings) -> None:
    """Raise ApiError if pictures of these (width, height) have more pixels than allowed in all."""
    if sum(width * height for width, height in sizes) > round(settings.max_megapixels * 1e6):
        raise too_large(
            f"the pictures have more than {settings.max_megapixels:g} million pixels in all; send "
            "smaller ones",
            "messages",
        )


def from_data(url: str, name: str, settings: Settings) -> bytes:
    """The file in a data URL. Raises ApiError if it is none, or too large. ``name`` is for errors."""
    found = DATA.match(url)
    if found is None:
        raise bad_request(f"{name}: a data URL must begin with data:image/TYPE;base64,", "messages")
    most = round(settings.max_picture_mb * MB)
    if len(url) - found.end() > 4 * (most // 3 + 1):
        raise too_large(f"{name} has more than {most} bytes; send a smaller one", "messages")
    try:
        return base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise bad_request(f"{name}: its data URL is not valid base64", "messages") from None


def picture_size(name: str, file: IO[bytes]) -> tuple[int, int]:
    """(width, height), read off the header. Raises ApiError. ``name`` is that of the picture in errors."""
    try:
        with warnings.catch_warnings():
            # Pillow's own warning is an error in decode().
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as picture:
                return picture.size
    except Image.DecompressionBombError:
        raise too_large(f"{name} has too many pixels; send a smaller one", "messages") from None
    except Exception:
        # The parsers of headers raise arbitrary exceptions.
        raise _unreadable(name) from None


def _decode(name: str, file: bytes) -> Image.Image:
    try:
        return decode(io.BytesIO(file), name, FORMATS)
    except InputError as error:
        raise bad_request(" ".join(str(error).split()), "messages") from None


def _unreadable(name: str) -> Exception:
    return bad_request(f"{name}: this is not a PNG, JPEG, WebP or GIF picture", "messages")
