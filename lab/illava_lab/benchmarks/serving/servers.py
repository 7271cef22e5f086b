"""Server processes: start and stop them, and read what memory they use."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

STOP_SECONDS = 60.0
MB = 2**20
SERVING = re.compile(r"Serving (.+) on (http://\S+)/v1[;,] ")
"""What the command prints when it listens: the model's name, which may have spaces, and the address."""


class Server:
    """``illava serve`` as a process of its own on a free port of loopback. Use it as a context manager.

    Args:
        options: what comes after ``illava serve MODEL``.
        threads: torch's threads in the server; None: as many as torch takes by itself.
        port: 0 takes a free one.

    Raises RuntimeError, with what the process said, if it does not start.
    """

    def __init__(
        self, model: str, options: Sequence[str] = (), threads: int | None = None, port: int = 0
    ) -> None:
        self.words = [sys.executable, "-m", "illava", "serve", model, "--port", str(port), *options]
        self.environment = dict(os.environ)
        if threads is not None:
            self.environment["OMP_NUM_THREADS"] = str(threads)
        self.url = self.name = ""
        """Address without a path; the model's name in requests."""
        self.process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None

    def __enter__(self) -> Server:
        self._errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            self.words, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=self.environment
        )
        assert self.process.stdout is not None
        said = SERVING.match(self.process.stdout.readline())
        if said is None:
            self.process.kill()
            self.process.wait()
            log = self.log().strip()[-2000:]
            self.__exit__(None, None, None)
            raise RuntimeError(f"the server did not start: {log}")
        self.name, self.url = said[1], said[2]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process is not None
        assert self._errors is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        """What the process has written to stderr so far."""
        assert self._errors is not None
        # The process writes to the same file at an offset of its own.
        self._errors.flush()
        return os.pread(self._errors.fileno(), 10**7, 0).decode(errors="replace")


def memory(pid: int) -> float | None:
    """Megabytes (2**20 bytes) of a process in main memory (RSS); None where the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


def open_files(pid: int) -> int | None:
    """Open files and connections of a process; None where the system does not say."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def threads(pid: int) -> int | None:
    """Threads of a process; None where the system does not say."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return None


def descendants(pid: int) -> list[int]:
    """A process and all that it started, such as the replicas of a server."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        # Processes may end meanwhile.
        with suppress(OSError, IndexError, ValueError):
            # The name, in parentheses, may hold spaces.
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.parent.name))
    found = [pid]
    for one in found:
        found.extend(parents.get(one, ()))
    return found
