"""Writes files atomically, and never over an input file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..errors import InputError
from .texts import is_broken

_given: ContextVar[dict[tuple[int, int], str] | None] = ContextVar("given", default=None)
"""The inputs of the current command by device and inode, so that links and other spellings match too."""


@contextmanager
def protecting() -> Iterator[None]:
    """Within the block, files that :func:`protect` was called with cannot be overwritten."""
    token = _given.set({})
    try:
        yield
    finally:
        _given.reset(token)


def protect(*paths: str | os.PathLike[str]) -> None:
    """Within :func:`protecting`, register input files and folders; otherwise do nothing."""
    given = _given.get()
    for path in paths if given is not None else ():
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        given.setdefault((status.st_dev, status.st_ino), os.fspath(path))  # type: ignore[union-attr]


def check_free(path: str | os.PathLike[str]) -> None:
    """Raise InputError if an output file or folder is an input of the current command."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return
    found = (_given.get() or {}).get((status.st_dev, status.st_ino))
    if found is not None:
        name = os.fspath(path)
        same = "" if found == name else f", the same as {found}"
        raise InputError(f"{name}: this is an input{same}, and is not overwritten; give another path")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that can be written to any file: ASCII only if a text contains a lone surrogate."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return json.dumps(value, indent=indent) if is_broken(text) else text


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path to write to, in the folder of ``path``; it replaces ``path`` if the block succeeds.

    Symbolic links are preserved. Raises OSError if the folder does not exist, and InputError as
    :func:`check_free` does.
    """
    check_free(path)
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
