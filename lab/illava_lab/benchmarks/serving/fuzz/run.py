"""Sends all requests of a seed to a server, and watches what becomes of the server."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ..servers import memory, open_files, threads
from . import bodies
from .cases import Case, Maker, head
from .wire import Result, exchange

WARM_UP = 0.2
"""The share of requests after which the memory must not grow."""
CALM_SECONDS = 60.0


@dataclass
class Findings:
    """What a run found. Faults name the number of the request."""

    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """By kind and status, "-" for none."""
    faults: list[str] = field(default_factory=list)
    samples: list[tuple[int, float, int, int]] = field(default_factory=list)
    """(requests so far, megabytes, open files, threads) of the server."""

    def growth(self) -> float | None:
        """Memory at the end over that after warm-up, less 1: medians of a tenth of the requests each."""
        warm, end = (
            [mb for at, mb, *_ in self.samples if low * self.requests <= at <= high * self.requests]
            for low, high in ((WARM_UP, WARM_UP + 0.1), (0.9, 1.0))
        )
        return float(np.median(end) / np.median(warm) - 1) if warm and end else None

    def summary(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {
            "requests": self.requests,
            "statuses": dict(sorted(self.statuses.items())),
            "faults": self.faults,
            "memory_growth": self.growth(),
            "samples": self.samples,
        }


class Fuzz:
    """A run against a server.

    Args:
        url: its address, without a path.
        pid: its process, whose memory is watched; None: it is not.
        parallel: requests under way at a time.
        every: requests between two probes, which ask the same as at first and must get the same answer.
    """

    def __init__(
        self, url: str, maker: Maker, pid: int | None = None, parallel: int = 8, every: int = 50
    ) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self.host, self.port = address.hostname, address.port
        self.maker, self.pid, self.parallel, self.every = maker, pid, parallel, every
        self.found = Findings()
        self._expected: Any = None

    async def run(self, requests: int, told: Callable[[int], None] = lambda done: None) -> Findings:
        """Send requests 0, 1, ... and return what was found."""
        self.found.requests = requests
        await self._probe(0)
        for start in range(0, requests, self.every):
            numbers = iter(range(start, min(start + self.every, requests)))
            await asyncio.gather(*(self._some(numbers) for _ in range(self.parallel)))
            done = min(start + self.every, requests)
            await self._probe(done)
            self._sample(done)
            told(done)
        await self._calm()
        return self.found

    async def one(self, number: int) -> tuple[Case, Result]:
        """Send one request."""
        case = self.maker.case(number)
        return case, await exchange(self.host, self.port, case)

    async def _some(self, numbers: Any) -> None:
        for number in numbers:
            case, result = await self.one(number)
            self.found.statuses[f"{case.kind} {result.status or '-'}"] += 1
            if result.fault is not None:
                self.found.faults.append(f"request {number} ({case.kind}): {result.fault}")

    async def _probe(self, done: int) -> None:
        """Ask what was asked at first: the answer and the usage must be the same."""
        body = bodies.encoded(bodies.probe(self.maker.model))
        case = Case(-1, "probe", head(body), body, frozenset({200}))
        result = await exchange(self.host, self.port, case)
        if result.fault is not None:
            self.found.faults.append(f"the probe after {done} requests: {result.fault}")
            return
        content = json.loads(result.body)
        answer = (content["choices"][0]["message"]["content"], content["usage"])
        if self._expected is None:
            self._expected = answer
        elif answer != self._expected:
            self.found.faults.append(f"the probe after {done} requests: {answer} instead of {self._expected}")

    def _sample(self, done: int) -> None:
        if self.pid is not None and (mb := memory(self.pid)) is not None:
            self.found.samples.append((done, round(mb, 1), open_files(self.pid) or 0, threads(self.pid) or 0))

    async def _calm(self) -> None:
        """When all is over, nothing may wait or run in the server."""
        case = Case(
            -1, "calm", head(b"", method="GET", path="/metrics"), b"", frozenset({200}), plain_error=True
        )
        for _ in range(round(CALM_SECONDS / 0.1)):
            text = (await exchange(self.host, self.port, case)).body.decode()
            lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
            left = [float(lines.get(f"illava_{name}_requests", 1)) for name in ("waiting", "running")]
            if not any(left):
                return
            await asyncio.sleep(0.1)
        self.found.faults.append(f"{left[0]:g} requests wait and {left[1]:g} run after all have ended")
