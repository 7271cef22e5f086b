"""Commands that start Ray, the processes that they start, and where these listen.

They need ``illava[ray]``: ``make test-ray`` runs them in an environment of its own, and fails without it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.batch.conftest import pictures
from tests.cli.conftest import SRC, folder, one_thread

__all__ = ["folder", "one_thread", "pictures"]
WAIT = float(os.environ.get("ILLAVA_TEST_WAIT", "600"))
"""Seconds after which a test gives up. No test asserts how long something takes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, and skip it without Ray or without Linux's list of processes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)
            if find_spec("ray") is None or not os.path.isdir("/proc/self/fd"):
                item.add_marker(pytest.mark.skip(reason="needs Linux and illava[ray]: make test-ray"))


class Command:
    """``illava WORDS`` in a process of its own, with a temporary folder of its own.

    Args:
        temporary: its path must be short: Ray's sockets are in it.
    """

    def __init__(self, temporary: Path, *words: object) -> None:
        self.temporary = temporary
        code = "import sys; sys.argv[0] = 'illava'\nfrom illava.cli import main; main()"
        paths = [str(SRC), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(temporary),
            "HOME": str(temporary / "home"),
            # As nice as the tests; Ray's default is nicer.
            "RAY_worker_niceness": "0",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def end(self) -> tuple[str, str]:
        """Wait for its end: what it wrote to stdout and stderr."""
        return self.process.communicate(timeout=WAIT)

    def until(self, done: Callable[[], Any]) -> Any:
        """Wait until something is true, and return it. Fails if the command ends before."""
        end = time.monotonic() + WAIT
        while not (found := done()):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "this never came true"
            time.sleep(0.1)
        return found

    def processes(self, name: str = "") -> dict[int, str]:
        """Numbers and names of the living processes that it started, and that have ``name`` in theirs."""
        found = {}
        mark = f"TMPDIR={self.temporary}\0".encode()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and mark in (entry / "environ").read_bytes() + b"\0":
                    title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    if name in title and state != "Z":
                        found[int(entry.name)] = title
            except OSError:
                continue
        return found

    def listening(self) -> set[str]:
        """The addresses, in hexadecimal as in /proc/net/tcp, on which it and its processes listen."""
        inodes = set()
        for number in self.processes():
            try:
                inodes |= {os.readlink(link) for link in Path(f"/proc/{number}/fd").iterdir()}
            except OSError:
                continue
        rows = []
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            rows += [line.split() for line in Path(table).read_text().splitlines()[1:]]
        return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}

    def kill_all(self) -> None:
        """End what is left of it."""
        for number in self.processes():
            try:
                os.kill(number, signal.SIGKILL)
            except OSError:
                continue


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    """Starts commands. At the end of a test nothing of them is left."""
    temporary = Path(tempfile.mkdtemp(prefix="r-"))
    (temporary / "home").mkdir()
    started: list[Command] = []

    def start(*words: object) -> Command:
        started.append(Command(temporary, *words))
        return started[-1]

    try:
        yield start
        # Ray's default for its key is a file in the user's folder.
        assert list((temporary / "home").iterdir()) == []
    finally:
        for command in started:
            command.kill_all()
        shutil.rmtree(temporary, ignore_errors=True)
