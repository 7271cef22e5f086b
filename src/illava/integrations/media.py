"""Pictures and videos as harnesses hand them over."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from ..errors import InputError
from ..io.pictures import decode, open_picture, to_rgb
from ..io.video import read_video, spaced


def picture_of(value: Any) -> Image.Image:
    """An RGB image from a Pillow image, a file, or the encoded bytes of one.

    Bytes stand in a dictionary, as data sets have them: ``{"bytes": ..., "path": ...}``. Raises InputError.
    """
    if isinstance(value, Image.Image):
        return to_rgb(value)
    if isinstance(value, str):
        return open_picture(value.removeprefix("file://"))
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return decode(io.BytesIO(value["bytes"]), value.get("path") or "the picture")
    raise InputError(f"a picture must be a Pillow image or a file, not {type(value).__name__}")


def frames_of(value: Any, most: int) -> list[Image.Image]:
    """The RGB frames of a video: a file, a folder of frames, or a list of pictures.

    Args:
        most: of more frames, this many evenly spaced ones are used.

    Raises InputError.
    """
    if isinstance(value, str):
        return list(read_video(value.removeprefix("file://"), most))
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(
            f"a video must be a file, a folder, or a list of frames, not {type(value).__name__}"
            if not isinstance(value, (list, tuple))
            else "a video has no frames"
        )
    frames = [picture_of(value[i]) for i in spaced(len(value), most)]
    if len({frame.size for frame in frames}) > 1:
        raise InputError("the frames of a video differ in size; give frames of one size")
    return frames
