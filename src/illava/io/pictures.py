"""Reads images of any format as 8-bit RGB, and writes PNG files."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError as InputError
from ..plugins import INSTALL_LAB, LAB, LAB_IMAGES, images
from .containers import is_video_file
from .files import check_free, protect, replacing
from .texts import check_path


def demo_names() -> list[str]:
    """Names of the images of installed distributions, as :func:`open_picture` accepts them."""
    return sorted(name for provider in images().values() for name in provider.names())


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file, or an image of illava-lab, ``demo/NAME``, as an 8-bit RGB image.

    Applies the EXIF rotation, puts transparent images on white, scales 16-bit greyscale to 8 bits, and reads
    the first frame of an animation. The format is detected from the content, not from the file name.

    Raises InputError if the file is missing, not a regular file, unreadable, empty, truncated, not an image,
    or has more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels; also for URLs.
    """
    check_path(path, "a picture")
    prefix, name = str(path).partition("/")[0], str(path)
    path = Path(path)
    if prefix in images() and name in images()[prefix].names():
        path = images()[prefix].path(name)
    elif prefix == LAB_IMAGES and prefix not in images() and not path.exists():
        raise InputError(f"{name}: no such file; as a demo image it is part of {LAB}: {INSTALL_LAB}")
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise InputError(f"{path}: this is a folder; give a picture file")
        # Opening a pipe would block.
        if not path.is_file():
            raise InputError(f"{path}: this is not a regular file; give a picture file")
        if size == 0:
            raise InputError(f"{path}: the file is empty; give a picture file")
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a picture") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: the file cannot be read: {reason}") from error
    protect(path)
    if is_video_file(path):
        raise InputError(f"{path}: this is a video; give a picture file")
    return decode(path)


def is_picture(path: Path) -> bool:
    """Whether Pillow recognises the content of a file as a single image, not an animation."""
    if is_video_file(path):
        return False
    try:
        with warnings.catch_warnings(), Image.open(path, formats=_formats()) as picture:
            return not getattr(picture, "is_animated", False)
    except Exception:
        # Pillow raises arbitrary exceptions on broken files.
        return False


def _formats() -> list[str]:
    Image.init()
    # Reading EPS would run Ghostscript: opening an image must not execute programs.
    return [name for name in Image.ID if name != "EPS"]


def decode(
    source: Path | IO[bytes], path: object = None, formats: Sequence[str] | None = None
) -> Image.Image:
    """Decode an open file or a path as :func:`open_picture` does.

    Args:
        path: its name in error messages.
        formats: the formats of Pillow that are tried; None: all but EPS.

    Raises InputError for a file that is not an image, broken, truncated or too large.
    """
    path = source if path is None else path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=_formats() if formats is None else formats) as picture:
                picture.load()
                return to_rgb(_upright(picture))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(
            f"{path}: the picture has more than {Image.MAX_IMAGE_PIXELS} pixels; give a smaller one"
        ) from None
    except UnidentifiedImageError:
        raise InputError(
            f"{path}: this is not a picture that can be read; give a PNG, JPEG, WebP, GIF or TIFF file"
        ) from None
    except MemoryError:
        raise InputError(f"{path}: the picture does not fit into memory; give a smaller one") from None
    except Exception as error:
        # The decoders of Pillow raise arbitrary exceptions on broken files, from SyntaxError to struct.error.
        raise InputError(f"{path}: the picture is broken or truncated: {error}") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a Pillow image to 8-bit RGB: transparency on white, high-depth greyscale scaled to 0..255."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        deep = picture.convert("F")
        # The modes I and F do not define white: use the smallest usual value that covers the image.
        usual = {"I": (255, 65535), "F": (1, 255, 65535)}.get(picture.mode, (65535,))
        brightest = deep.getextrema()[1]
        white = next((top for top in usual if brightest <= top), brightest)
        return deep.point(lambda value: value * (255 / white) + 0.5).convert("L").convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        # The EXIF data are broken, the pixels are not: return the image without rotation.
        return picture


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless ``path`` is a ``.png`` file that can be written. Writes nothing."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: the file name must end in .png")
    check_free(path)
    # Unlike pathlib, os.path never raises, whatever the name.
    if os.path.isdir(path):
        raise InputError(f"{path}: this is a folder; give the name of a PNG file to write")
    if not os.path.isdir(path.parent):
        raise InputError(f"{path}: there is no folder {path.parent}; create it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        writable = not os.path.exists(path) or os.access(path, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise InputError(f"{path}: no permission to write there; choose another file")


def save_png(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a PNG file atomically. Raises InputError if it cannot be written."""
    try:
        with replacing(path) as partial:
            picture.save(partial, format="PNG")
    except OSError as error:
        raise InputError(f"{path}: the file cannot be written: {error.strerror or error}") from error
