"""The servers under load, and what of them is watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from .client import Client
from .servers import descendants, memory


@dataclass
class Target:
    """A server that answers.

    Args:
        name: "plain" or "merged", or any other.
        url: its address without a path.
        model: the model's name in requests.
        pid: its process, with whose children the memory is counted; None: somewhere else.
    """

    name: str
    url: str
    model: str
    pid: int | None = None
    memory: list[tuple[float, float]] = field(default_factory=list)
    """(seconds in the run, megabytes)."""

    def sample(self, now: float) -> None:
        """Record the memory, if it is known."""
        if self.pid is None:
            return
        known = [mb for pid in descendants(self.pid) if (mb := memory(pid)) is not None]
        if known:
            self.memory.append((round(now, 2), round(sum(known), 1)))


@asynccontextmanager
async def watching(targets: list[Target], client: Client, every: float) -> AsyncIterator[None]:
    """Sample the memory of all targets every so many seconds, and at the beginning and the end."""

    async def watch() -> None:
        while True:
            for target in targets:
                target.sample(client.now)
            await asyncio.sleep(every)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        for target in targets:
            target.sample(client.now)
