"""Checks text inputs for lone surrogates, URLs and empty paths."""

from __future__ import annotations

import os
import re

from ..errors import InputError

_SURROGATE = re.compile("[\ud800-\udfff]")


def is_broken(text: str) -> bool:
    """Whether a text contains a lone surrogate, which neither tokenizers nor UTF-8 files accept.

    Half an emoji, or a byte that is not UTF-8, becomes a lone surrogate.
    """
    return _SURROGATE.search(text) is not None


def check_text(name: str, text: str) -> None:
    """Raise InputError if a text contains a lone surrogate. ``name`` is its name in the message."""
    if found := _SURROGATE.search(text):
        raise InputError(
            f"{name}: character {found.start() + 1} is half an emoji or a byte that is not UTF-8; give whole "
            f"characters: {text!r}"
        )


def is_url(text: str | os.PathLike[str]) -> bool:
    """Whether this is a URL such as "https://..." or "data:image/...", not a path."""
    return re.match(r"[a-z][a-z0-9+.-]+://|data:[\w/+.-]*[;,]", os.fspath(text), re.IGNORECASE) is not None


def check_path(path: str | os.PathLike[str], what: str) -> None:
    """Raise InputError for an empty path or a URL. ``what`` is the expected kind of file in the message."""
    if not os.fspath(path).strip():
        raise InputError(f"the path is empty; give the path of {what}")
    if is_url(path):
        raise InputError(f"{os.fspath(path)}: URLs are not read; download it and give the path of {what}")


def slug(model: str) -> str:
    """The name of a model as a file name: "zoo-S" for "zoo/S"."""
    return re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model"
