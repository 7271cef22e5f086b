"""Plain and merged in turn on one machine: closed loops of several clients, then open loops at several rates.

Both servers run all the time, and one at a time gets requests. Each round has a slice of every load for each
of them; the order changes from round to round.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .client import Client, Outcome
from .equal import compare
from .figures import EDGES, Slice, describe, interval, rate
from .loops import closed, opened
from .prompts import Prompts
from .targets import Target, watching


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    seconds: float = 60.0
    """Of a slice, after it has settled."""
    settle: float = 10.0
    """Seconds at the beginning of a slice that are not counted."""
    warm_up: int = 8
    """Requests to each server before all."""
    clients: tuple[int, ...] = (1, 2, 4, 8)
    """Of the closed loops."""
    shares: tuple[float, ...] = (0.5, 0.65, 0.8, 0.9, 1.0)
    """Rates of the open loops, as shares of what a server answered a second in its best closed loop."""
    at: float = 0.8
    """Plain's share whose 99th percentile of the time to the first token is the limit for all."""
    limit: float | None = None
    """That limit in seconds, instead."""
    patience: float = 60.0
    """Seconds in which a request is tried again. Waiting for that counts."""


@dataclass
class Measurement:
    """All slices of a run."""

    plan: Plan
    closed: dict[str, dict[float, list[Slice]]] = field(default_factory=dict)
    """By variant and number of clients: a slice of each round."""
    opened: dict[str, dict[float, list[Slice]]] = field(default_factory=dict)
    """By variant and rate of arrivals."""
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """What was measured, JSON-ready."""
        plan = self.plan
        found: dict[str, Any] = {"plan": plan.__dict__, "histogram_edges": EDGES}
        for name, loads in (("closed", self.closed), ("open", self.opened)):
            found[name] = {
                variant: [_load(load, slices, plan.rounds) for load, slices in sorted(by_load.items())]
                for variant, by_load in loads.items()
            }
        if self.opened:
            at = self.rates("plain")[plan.at]
            found["equal_p99"] = compare(self.opened, at, plan.rounds, plan.limit)
        found["requests"] = {
            variant: dict(Counter(one.kind for one in outcomes))
            for variant, outcomes in self.outcomes.items()
        }
        found["not_answered"] = {
            variant: [one.record() for one in outcomes if not one.answered]
            for variant, outcomes in self.outcomes.items()
        }
        return found

    def rates(self, variant: str) -> dict[float, float]:
        """Share to rate of arrivals, from the best closed loop."""
        best = max(rate(slices) for slices in self.closed[variant].values())
        return {share: round(share * best, 4) for share in self.plan.shares}


def _load(load: float, slices: Sequence[Slice], rounds: int) -> dict[str, Any]:
    values = [value for one in slices for value in one.ttfts]
    latencies = [value for one in slices for value in one.latencies]
    return {
        "load": load,
        "rate": interval(rounds, lambda chosen: rate([slices[n] for n in chosen])),
        "ttft": describe(values),
        "latency": describe(latencies),
    }


async def measure(targets: Sequence[Target], prompts: dict[str, Prompts], plan: Plan) -> Measurement:
    """Measure all targets, one of which is "plain".

    Args:
        prompts: by the targets' names; the same requests for all but for the model's name.

    Raises ValueError without a plain target, or if a server answers nothing in a closed loop.
    """
    if "plain" not in {target.name for target in targets}:
        raise ValueError('one of the targets must be called "plain"')
    if plan.at not in plan.shares:
        raise ValueError(f"the limit's share {plan.at:g} must be one of {plan.shares}")
    found, began = Measurement(plan), time.monotonic()
    for target in targets:
        found.outcomes[target.name] = []
        found.closed[target.name], found.opened[target.name] = {}, {}
        async with Client(target.url, began, plan.patience) as client:
            for number in range(plan.warm_up):
                await client.ask(number, prompts[target.name].body(number))
    for number in range(plan.rounds):
        for clients in plan.clients:
            for target in _in_turn(targets, number):
                await _slice(found, target, prompts[target.name], began, number, clients=clients)
    if any(not rate(slices) for loads in found.closed.values() for slices in loads.values()):
        raise ValueError("a server answered nothing in a slice; make the slices longer")
    for number in range(plan.rounds):
        for share in plan.shares:
            for target in _in_turn(targets, number):
                arriving = found.rates(target.name)[share]
                await _slice(found, target, prompts[target.name], began, number, arriving=arriving)
    return found


def _in_turn(targets: Sequence[Target], number: int) -> Iterator[Target]:
    """The targets in another order each round."""
    first = number % len(targets)
    return iter([*targets[first:], *targets[:first]])


async def _slice(
    found: Measurement,
    target: Target,
    prompts: Prompts,
    began: float,
    number: int,
    clients: int = 0,
    arriving: float = 0.0,
) -> None:
    """One slice: a closed loop of ``clients``, or arrivals at a rate. All its answers are awaited."""
    plan = found.plan
    whole = plan.settle + plan.seconds
    async with Client(target.url, began, plan.patience) as client, watching([target], client, 1.0):
        begin = client.now
        if clients:
            outcomes = await closed(client, prompts.body, itertools.count(), clients, whole)
        else:
            # The same arrivals for every variant at the same rate.
            outcomes = await opened(client, prompts.body, itertools.count(), arriving, whole, seed=number)
    found.outcomes[target.name] += outcomes
    loads = found.closed if clients else found.opened
    one = Slice(outcomes, begin + plan.settle, begin + whole)
    loads[target.name].setdefault(clients or arriving, []).append(one)
