"""The size of a picture after the processor that lies beside a model's weights."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import Any

from .family import Family
from .workload import Size, first

ANY_PICTURE: Size = (672, 672)
"""Where the size of a picture is not given."""


def takes_any_size(family: Family, config: Any) -> bool:
    """Whether a model encodes a picture as a whole, at whatever size the processor gives it."""
    tower = family.tower(config)
    return tower is not None and tower.any_size and family.picture_format(config) == "square"


def processed_size(
    family: Family, config: Any, size: Size = ANY_PICTURE, trust_remote_code: bool = False
) -> Size:
    """The size to which the processor of a model that :func:`takes_any_size` brings a picture.

    Args:
        config: of a model in a folder or on the hub; the processor is read from there and applied to a blank
            picture.
        size: (width, height) of the picture in pixels.

    Returns (width, height) in pixels. Without a processor it is the size that the vision config states.
    """
    side = first(config.vision_config.image_size)
    name = getattr(config, "_name_or_path", None)
    if not isinstance(name, str) or not name:
        return side, side
    commit = getattr(config, "_commit_hash", None)
    if os.path.isdir(name):
        # Written anew, the files count as another processor.
        commit = json.dumps([os.stat(file.path).st_mtime_ns for file in os.scandir(name) if file.is_file()])
    elif commit is None:
        # Only configs from the hub have a commit: the name may be that of a deleted folder.
        return side, side
    return _processed(name, commit, tuple(size), trust_remote_code) or (side, side)


@lru_cache(maxsize=256)
def _processed(name: str, version: str, size: Size, trust_remote_code: bool) -> Size | None:
    """Size of a blank picture after the image processor of a folder or hub id; None without a processor.

    ``version`` makes the cache forget a folder that has changed.
    """
    from PIL import Image
    from transformers import AutoImageProcessor

    reader: Any = AutoImageProcessor
    revision = {} if os.path.isdir(name) else {"revision": version}
    try:
        processor = reader.from_pretrained(name, trust_remote_code=trust_remote_code, **revision)
    except Exception:
        # A model may be saved without a processor, and the hub may not be reachable.
        return None
    pixels = processor(images=Image.new("RGB", size), return_tensors="pt")["pixel_values"]
    return int(pixels.shape[-1]), int(pixels.shape[-2])
