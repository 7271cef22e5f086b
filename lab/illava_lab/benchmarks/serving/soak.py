"""A long run: rates, waits and memory over time, which requests were lost, and what an event changes."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .client import Client, Outcome
from .figures import Slice, describe, rate
from .loops import closed, opened
from .prompts import Prompts
from .targets import Target, watching

CYCLE = 64
"""Requests repeat after so many."""


@dataclass(frozen=True)
class SoakPlan:
    """How long, and under which load."""

    hours: float = 8.0
    clients: int = 4
    """Of a closed loop..."""
    arriving: float | None = None
    """... or requests a second of an open one."""
    windows: int = 24
    """Equal parts of the run that are described one by one."""
    warm_up: float = 0.1
    """The share of the run after which memory should not grow."""
    patience: float = 120.0
    """Seconds from when a request was due in which it is tried again."""
    event: str | None = None
    """A shell command that is run in the middle, such as one that kills a replica."""
    event_at: float = 0.5
    """When, as a share of the run."""


@dataclass
class Soak:
    """What a long run showed."""

    plan: SoakPlan
    target: Target
    outcomes: list[Outcome]
    events: list[dict[str, Any]]
    began: float
    """When the load began, on the clock of the outcomes."""

    def summary(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        length = 3600 * self.plan.hours / self.plan.windows
        windows = [
            Slice(self.outcomes, self.began + number * length, self.began + (number + 1) * length)
            for number in range(self.plan.windows)
        ]
        return {
            "plan": self.plan.__dict__,
            "windows": [
                {
                    "begin": round(one.begin - self.began, 6),
                    "rate": rate([one]),
                    "ttft": describe(one.ttfts),
                    "latency": describe(one.latencies),
                    "requests": dict(Counter(each.kind for each in one.due)),
                }
                for one in windows
            ],
            "requests": dict(Counter(one.kind for one in self.outcomes)),
            "troubles": dict(Counter(said for one in self.outcomes for said in one.troubles)),
            "lost": [one.record() for one in self.outcomes if one.kind == "lost"],
            "refused": [one.record() for one in self.outcomes if one.kind == "refused"],
            "different_answers": different(self.outcomes),
            "events": self.events,
            "memory": self.target.memory,
            "memory_growth": growth(self.target.memory, self.plan.warm_up),
        }


def different(outcomes: Sequence[Outcome]) -> int:
    """Requests with the same body whose answers were not all the same: greedy answers should be.

    Batches of other sizes round differently, and a tie between two tokens may then go the other way.
    """
    texts: dict[int, set[str]] = {}
    for one in outcomes:
        if one.answered:
            texts.setdefault(one.number % CYCLE, set()).add(one.text)
    return sum(len(found) - 1 for found in texts.values())


def growth(samples: Sequence[tuple[float, float]], warm_up: float) -> dict[str, float] | None:
    """Memory over time after the warm-up, in megabytes; None without samples.

    Returns the medians of the first and the last tenth of what is left, their ratio less 1, and the slope of
    a straight line through all of it (least squares), in megabytes an hour.
    """
    if not samples:
        return None
    length = samples[-1][0]
    kept = np.array([one for one in samples if one[0] >= warm_up * length])
    tenth = max(1, math.ceil(len(kept) / 10))
    first, last = float(np.median(kept[:tenth, 1])), float(np.median(kept[-tenth:, 1]))
    slope = float(np.polyfit(kept[:, 0], kept[:, 1], 1)[0]) * 3600 if len(kept) > 1 else 0.0
    return {"first_mb": first, "last_mb": last, "growth": last / first - 1, "mb_per_hour": slope}


async def soak(target: Target, prompts: Prompts, plan: SoakPlan, every: float = 10.0) -> Soak:
    """Run the load, and the event in the middle of it. Every request is recorded."""
    events: list[dict[str, Any]] = []
    seconds = 3600 * plan.hours

    async def happen(client: Client) -> None:
        if plan.event is None:
            return
        await asyncio.sleep(plan.event_at * seconds)
        at = client.now
        process = await asyncio.create_subprocess_shell(plan.event)
        events.append({"command": plan.event, "at": at, "status": await process.wait(), "ended": client.now})

    def body(number: int) -> dict[str, Any]:
        return prompts.body(number % CYCLE)

    async with (
        Client(target.url, time.monotonic(), plan.patience) as client,
        watching([target], client, every),
    ):
        event = asyncio.create_task(happen(client))
        numbers, began = itertools.count(), client.now
        if plan.arriving is None:
            outcomes = await closed(client, body, numbers, plan.clients, seconds)
        else:
            outcomes = await opened(client, body, numbers, plan.arriving, seconds, seed=0)
        await event
    return Soak(plan, target, outcomes, events, began)
