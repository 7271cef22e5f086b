"""The size of a picture after the processor that lies beside a model's weights."""

from __future__ import annotations

import json
import os
import warnings
from functools import lru_cache
from typing import Any

from .family import Family
from .loading import reason
from .located import LocatedModules
from .workload import Size, first

ANY_PICTURE: Size = (672, 672)
"""Where the size of a picture is not given."""
FILES = "preprocessor_config.json", "processor_config.json"
MISSING_IS_NONE: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False}


def takes_any_size(family: Family, config: Any) -> bool:
    """Whether a model encodes a picture as a whole, at whatever size the processor gives it."""
    tower = family.tower(config)
    return tower is not None and tower.any_size and family.picture_format(config) == "square"


def resizes_inside(modules: LocatedModules) -> bool:
    """Whether pictures can be resized inside the model, after the processor."""
    if modules.tower.packed and modules.projector_inside:
        return True
    whole = takes_any_size(modules.family, modules.config) and modules.group == 1
    return whole and modules.family.resampler is None


def processed_size(
    family: Family, config: Any, size: Size = ANY_PICTURE, trust_remote_code: bool = False
) -> Size:
    """The size to which the processor of a model that :func:`takes_any_size` brings a picture.

    Args:
        config: of a model in a folder or on the hub; the processor is read from there and applied to a blank
            picture.
        size: (width, height) of the picture in pixels.

    Returns (width, height) in pixels. It is the size that the vision config states if the config comes from
    nowhere, or from a place without the file of a processor, and, with a warning, if the processor cannot be
    read or applied, or the folder is gone.
    """
    side = first(config.vision_config.image_size)
    name = getattr(config, "_name_or_path", None)
    if not isinstance(name, str) or not name:
        return side, side
    commit = getattr(config, "_commit_hash", None)
    found: Size | str | None
    if os.path.isdir(name):
        # Written anew, the files count as another processor. A relative path may come to mean another folder.
        folder = os.path.abspath(name)
        times = [os.stat(file.path).st_mtime_ns for file in os.scandir(folder) if file.is_file()]
        found = _processed(folder, json.dumps(times), tuple(size), trust_remote_code)
    elif commit is None:
        # Only configs from the hub have a commit.
        found = f"there is no folder {os.path.abspath(name)}"
    else:
        found = _processed(name, commit, tuple(size), trust_remote_code)
    if isinstance(found, str):
        warnings.warn(
            f"the processor of {name} cannot be read: {found}; the config's size of {side} px is assumed",
            stacklevel=2,
        )
    return found if isinstance(found, tuple) else (side, side)


@lru_cache(maxsize=256)
def _processed(name: str, version: str, size: Size, trust_remote_code: bool) -> Size | str | None:
    """Size of a blank picture after the image processor of a folder or hub id.

    ``version`` makes the cache forget a folder that has changed. None if there is no file of a processor, and
    the reason in one line if there is one that cannot be read or applied.
    """
    from PIL import Image
    from transformers import AutoImageProcessor
    from transformers.utils.hub import cached_file

    reader: Any = AutoImageProcessor
    revision = {} if os.path.isdir(name) else {"revision": version}
    try:
        if all(cached_file(name, file, **MISSING_IS_NONE, **revision) is None for file in FILES):
            return None
        processor = reader.from_pretrained(name, trust_remote_code=trust_remote_code, **revision)
        pixels = processor(images=Image.new("RGB", size), return_tensors="pt")["pixel_values"]
        return int(pixels.shape[-1]), int(pixels.shape[-2])
    except Exception as error:
        # The files are the user's, and each processor has errors of its own.
        return reason(error)
