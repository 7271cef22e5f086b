"""A file of JSON lines that grows by whole lines and stays valid if the process is killed at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError
from .files import check_free, to_json

Key = TypeVar("Key")


class JsonLines:
    """A file of JSON lines, locked by one process at a time. :meth:`close` releases it.

    Args:
        path: created if missing.
        busy: the message of the error when another process has locked it.
        advice: what an error about an invalid line tells the user to do.

    Raises OSError, and InputError if it is locked or an input of the current command.
    """

    def __init__(self, path: Path, busy: str, advice: str) -> None:
        check_free(path)
        self.path, self.advice = path, advice
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock(busy)
        except BaseException:
            self.close()
            raise

    def read(self, key: Callable[[Any], Key]) -> Iterator[tuple[Key, Any]]:
        """All lines with their keys, in order; then an incomplete last line, of a killed run, is removed.

        Args:
            key: raises ValueError, TypeError or KeyError for a line of another kind.

        Raises InputError for an invalid line.
        """
        whole, wrong = 0, ""
        with self.path.open("rb") as file:
            for number, piece in enumerate(file, 1):
                if wrong:
                    raise InputError(f"{self.path}: {wrong}; {self.advice}")
                try:
                    line = json.loads(piece)
                    found = key(line)
                except (ValueError, TypeError, KeyError) as error:
                    # Unless it is the last one.
                    wrong = f"line {number} is invalid: {error}"
                    continue
                if not piece.endswith(b"\n"):
                    break
                yield found, line
                whole += len(piece)
            size = os.fstat(self._file).st_size
        if whole < size:
            os.ftruncate(self._file, whole)

    def append(self, lines: Iterable[Any]) -> None:
        """Append lines and flush them to disk. Raises InputError if that fails."""
        data = "".join(to_json(line) + "\n" for line in lines).encode()
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise InputError(f"{self.path}: cannot write: {error.strerror or error}") from error

    def close(self) -> None:
        """Release the file. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _lock(self, busy: str) -> None:
        try:
            import fcntl
        except ImportError:
            # Windows has no flock: there, the user must not run two commands with one file.
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(busy) from None
        # Another process may have put a new file in its place since it was opened, and then ended.
        if not os.path.samestat(os.fstat(self._file), os.stat(self.path)):
            raise InputError(busy)
