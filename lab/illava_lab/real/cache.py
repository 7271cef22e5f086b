"""The folder that holds what was fetched and made: complete or absent, whatever was interrupted.

Everything is made in a work folder under a lock and then renamed. A stamp beside the files says what they
were made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from illava.errors import InputError

STAMP = "made_from.json"
VARIABLE = "ILLAVA_CACHE"


def root() -> Path:
    """``$ILLAVA_CACHE``, else ``illava`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. It need not exist.

    Raises InputError for a ``~`` that stands for no folder.
    """
    own = os.environ.get(VARIABLE)
    where = own or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "illava")
    try:
        return Path(where).expanduser()
    except RuntimeError:
        raise InputError(
            f"the cache folder {where}: there is no such home folder; set {VARIABLE} to a folder"
        ) from None


@contextmanager
def working(cache: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """An empty work folder inside ``cache``, for one process at a time; removed at the end, errors included.

    ``on_wait`` is called before waiting for another process. Raises OSError if the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    work = cache / ".work"
    try:
        # What a killed process left.
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.release()


def publish(made: Path, folder: Path, key: str) -> None:
    """Stamp ``made``, a folder in the work folder, and rename it to ``folder``, in place of an older one."""
    (made / STAMP).write_text(json.dumps({"key": key}) + "\n", encoding="utf-8")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.rename(made.with_name(made.name + ".old"))
    made.rename(folder)


def stamped(folder: Path) -> str | None:
    """The key that ``folder`` was published with; None if it was not."""
    try:
        return str(json.loads((folder / STAMP).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def key(**inputs: Any) -> str:
    """A hash of everything that something is made from; the values must be JSON."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def sha256(file: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits, computed again only if the file changed."""
    status = file.stat()
    return _sha256(file, status.st_mtime_ns, status.st_size)


@lru_cache(16)
def _sha256(file: Path, modified: int, size: int) -> str:
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def share(file: Path, copy: Path) -> None:
    """Make ``copy`` the same file by a hard link, else by a relative symbolic link, else by copying."""
    try:
        os.link(file, copy)
    except OSError:
        try:
            copy.symlink_to(os.path.relpath(file, copy.parent))
        except OSError:
            shutil.copyfile(file, copy)
