"""Opening pictures of any kind as plain RGB, saving them, and the one error of bad input."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError
from .containers import is_video_file
from .files import check_free, protect, replacing
from .texts import check_path

_DEMO = Path(__file__).parent / "data"


def demo_names() -> list[str]:
    """Names of the shipped pictures, as :func:`open_picture` takes them."""
    return sorted(f"demo/{file.name}" for file in _DEMO.glob("*.png"))


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture file, or a shipped picture ``demo/NAME``, as an upright 8-bit RGB picture.

    The first frame of animations, transparency on white, 16-bit greyscale scaled down, EXIF rotation done.

    What it is, the content decides, not the file's name. Raises InputError when the file is missing, not a
    file, unreadable, empty, truncated, not a picture, or has more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels,
    and for URLs.
    """
    check_path(path, "a picture")
    path = _DEMO / Path(path).name if str(path) in demo_names() else Path(path)
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise InputError(f"{path}: this is a folder; give a picture file")
        # Opening a pipe would wait for ever.
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
        raise InputError(f"{path}: this is a video; give a picture, or the video where one may stand")
    return decode(path)


def is_picture(path: Path) -> bool:
    """Whether a file holds a single picture that Pillow knows, going by its content; animations are none."""
    if is_video_file(path):
        return False
    try:
        with warnings.catch_warnings(), Image.open(path, formats=_formats()) as picture:
            return not getattr(picture, "is_animated", False)
    except Exception:
        # Broken files make Pillow raise anything.
        return False


def _formats() -> list[str]:
    Image.init()
    # Reading EPS means running Ghostscript on it: a picture viewer should not execute programs.
    return [name for name in Image.ID if name != "EPS"]


def decode(source: Path | IO[bytes], path: object = None) -> Image.Image:
    """A picture from an open file or a path, as :func:`open_picture` gives it; ``path``: its name in errors.

    Raises InputError for what is no picture, broken, truncated or too large.
    """
    path = source if path is None else path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=_formats()) as picture:
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
        # Broken files make Pillow's decoders raise anything from SyntaxError to struct.error.
        raise InputError(f"{path}: the picture is broken or truncated: {error}") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow picture as 8-bit RGB: transparency on white, deep greyscale scaled to 0..255."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        deep = picture.convert("F")
        # I and F do not say which number is white: the smallest usual one that covers the picture.
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
        # The pixels are fine, only the note on how to turn them is not: show them as they are.
        return picture


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless ``path`` is a ``.png`` file that can be written, without writing it."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: the file name must end in .png")
    check_free(path)
    # os.path: unlike pathlib it never raises, whatever the name.
    if os.path.isdir(path):
        raise InputError(f"{path}: this is a folder; give the name of a PNG file to write")
    if not os.path.isdir(path.parent):
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        writable = not os.path.exists(path) or os.access(path, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise InputError(f"{path}: no permission to write there; choose another file")


def save_png(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a PNG file all at once: readers see the old file or the new one. Raises InputError."""
    try:
        with replacing(path) as partial:
            picture.save(partial, format="PNG")
    except OSError as error:
        raise InputError(f"{path}: the file cannot be written: {error.strerror or error}") from error
