"""Reads the frames of a short video from a folder, or from a file with PyAV."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..errors import InputError
from .containers import is_video_file
from .files import protect
from .pictures import is_picture, open_picture
from .texts import check_path

MAX_FRAMES = 32
VIDEOS = (
    *(".mp4", ".m4v", ".mkv", ".webm", ".mov", ".qt", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".asf", ".flv", ".ogv", ".3gp", ".3g2", ".mxf"),
)
"""Common extensions of video files, used only if the content of a file is not recognised."""
HINT = "reading video files needs PyAV: pip install 'illava[eval]'; or give a folder of frames"


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder of frames or a video file.

    The extension decides only if the content is neither a known video format nor an image.
    """
    if os.path.isdir(path) or is_video_file(path):
        return True
    return Path(path).suffix.lower() in VIDEOS and not is_picture(Path(path))


def read_video(path: str | os.PathLike[str], most: int = MAX_FRAMES) -> tuple[Image.Image, ...]:
    """Read the frames of a video in order: all of them, or ``most`` evenly spaced ones.

    Args:
        path: a video file, or a folder of images. Images are sorted by name, with numbers in names compared
            as numbers.

    Raises InputError if there are no frames, if a frame cannot be read or has another size than the first, if
    the frames have too many pixels in total, or if PyAV is missing for a file; also for URLs and image files.
    """
    check_path(path, "a video, or of a folder of frames")
    path = Path(path)
    protect(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; give the path of a video, or a folder of frames")
    frames = _from_folder(path, most) if path.is_dir() else _from_file(path, most)
    if not frames:
        raise InputError(f"{path}: there are no frames in it; give a video, or a folder of images")
    if len({frame.size for frame in frames}) > 1:
        raise InputError(f"{path}: its frames differ in size; give frames of one size")
    return frames


def spaced(count: int, most: int) -> list[int]:
    """Up to ``most`` evenly spaced integers from 0 to ``count`` - 1."""
    picked = min(count, most)
    return [(2 * i + 1) * count // (2 * picked) for i in range(picked)]


def _from_folder(path: Path, most: int) -> tuple[Image.Image, ...]:
    files = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    files.sort(key=lambda file: _natural(file.name))
    protect(*files)
    frames: list[Image.Image] = []
    chosen = [files[i] for i in spaced(len(files), most)]
    for file in chosen:
        frames.append(open_picture(file))
        _check_pixels(path, *frames[0].size, len(chosen))
    return tuple(frames)


def _from_file(path: Path, most: int) -> tuple[Image.Image, ...]:
    if is_picture(path):
        raise InputError(f"{path}: this is a picture, not a video; give a video, or a folder of frames")
    try:
        import av
    except ImportError:
        raise InputError(f"{path}: {HINT}") from None
    kept: list[Image.Image] = []
    every = 1
    try:
        # A playlist must not open other files or URLs.
        options = {"protocol_whitelist": "none"}
        with path.open("rb") as file, av.open(_Nameless(file), options=options) as container:
            for number, frame in enumerate(container.decode(video=0)):
                _check_pixels(path, frame.width, frame.height, most)
                if number % every == 0:
                    kept.append(frame.to_image().convert("RGB"))
                if len(kept) == 4 * most:
                    # The number of frames is unknown until the end: halve the kept ones to bound memory.
                    kept, every = kept[::2], 2 * every
    except InputError:
        raise
    except Exception as error:
        # Decoders raise arbitrary exceptions on broken files.
        raise InputError(f"{path}: the video cannot be read: {error}") from error
    return tuple(kept[i] for i in spaced(len(kept), most))


class _Nameless:
    """A file without a name, so that PyAV does not guess its format from the extension."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _check_pixels(path: Path, width: int, height: int, frames: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height * frames > limit:
        raise InputError(
            f"{path}: {frames} frames of {width} x {height} have more than {limit} pixels; give smaller ones"
        )


def _natural(name: str) -> list[str | int]:
    # Every second piece is a sequence of digits.
    pieces = re.split(r"([0-9]+)", name)
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)]
