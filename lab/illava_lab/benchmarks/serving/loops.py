"""Two kinds of load: clients that await their answers (closed loop), and arrivals that do not (open loop)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .client import Client, Outcome

Body = Callable[[int], dict[str, Any]]


async def closed(
    client: Client, body: Body, numbers: Iterator[int], clients: int, seconds: float
) -> list[Outcome]:
    """``clients`` at a time ask, wait for the answer and ask again, for ``seconds``; answers are awaited."""
    stop, outcomes = client.now + seconds, []

    async def one() -> None:
        while client.now < stop:
            number = next(numbers)
            outcomes.append(await client.ask(number, body(number)))

    await asyncio.gather(*(one() for _ in range(clients)))
    return outcomes


async def opened(
    client: Client, body: Body, numbers: Iterator[int], rate: float, seconds: float, seed: int
) -> list[Outcome]:
    """Requests arrive at random (Poisson) at ``rate`` a second for ``seconds``, whatever became of others.

    Their times count from when they were due. The same seed gives the same arrivals.
    """
    began = client.now
    tasks = []
    for at in arrivals(rate, seconds, seed):
        await asyncio.sleep(max(0.0, began + at - client.now))
        number = next(numbers)
        tasks.append(asyncio.create_task(client.ask(number, body(number), began + at)))
    await asyncio.sleep(max(0.0, began + seconds - client.now))
    return list(await asyncio.gather(*tasks))


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Times from 0 to ``seconds`` of a Poisson process with ``rate`` events a second."""
    rng = np.random.default_rng(seed)
    times = itertools.accumulate(rng.exponential(1 / rate) for _ in itertools.count())
    return list(itertools.takewhile(lambda at: at < seconds, times))
