"""Writing files so that readers see the old one or the new one, never a half; never what was given."""

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
"""What was given to the command under way, by device and inode: links and other spellings are the same."""


@contextmanager
def protecting() -> Iterator[None]:
    """Within the block, what :func:`protect` was called with is not written over."""
    token = _given.set({})
    try:
        yield
    finally:
        _given.reset(token)


def protect(*paths: str | os.PathLike[str]) -> None:
    """Within :func:`protecting`, note files and folders that the user gave; elsewhere, do nothing."""
    given = _given.get()
    for path in paths if given is not None else ():
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        given.setdefault((status.st_dev, status.st_ino), os.fspath(path))  # type: ignore[union-attr]


def check_free(path: str | os.PathLike[str]) -> None:
    """Raise InputError where a file to write, or a folder to write into, is one that the user gave."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return
    found = (_given.get() or {}).get((status.st_dev, status.st_ino))
    if found is not None:
        name = os.fspath(path)
        same = "" if found == name else f", as {found}"
        raise InputError(f"{name}: this was given to be read{same}, and is not overwritten; give another")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that any file takes: readable, or in ASCII alone where a text holds a lone surrogate."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return json.dumps(value, indent=indent) if is_broken(text) else text


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the place of ``path`` when all went well.

    The folder must exist; OSError otherwise. Links go on pointing where they did. Raises InputError as
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
