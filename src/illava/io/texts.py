"""Checks of what users give as text: lone surrogates, URLs, nothing at all."""

from __future__ import annotations

import os
import re

from ..errors import InputError

_SURROGATE = re.compile("[\ud800-\udfff]")


def is_broken(text: str) -> bool:
    """Whether a text holds a lone surrogate, as half an emoji or a byte that is not UTF-8 leaves behind: no
    tokenizer takes it, and no file."""
    return _SURROGATE.search(text) is not None


def check_text(name: str, text: str) -> None:
    """Raise InputError, naming the text ``name``, where it holds a lone surrogate."""
    if found := _SURROGATE.search(text):
        raise InputError(
            f"{name}: character {found.start() + 1} is half an emoji or a byte that is not UTF-8; give whole "
            f"characters: {text!r}"
        )


def is_url(text: str | os.PathLike[str]) -> bool:
    """Whether this is an address such as "https://..." or "data:image/...", not a path."""
    return re.match(r"[a-z][a-z0-9+.-]+://|data:[\w/+.-]*[;,]", os.fspath(text), re.IGNORECASE) is not None


def check_path(path: str | os.PathLike[str], what: str) -> None:
    """Raise InputError for an empty path and for a URL; ``what``: what the path should lead to."""
    if not os.fspath(path).strip():
        raise InputError(f"the path is empty; give the path of {what}")
    if is_url(path):
        raise InputError(f"{os.fspath(path)}: URLs are not read; download it, and give the path of {what}")


def slug(model: str) -> str:
    """A model's name as that of a file: "zoo-S" for "zoo/S"."""
    return re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model"
