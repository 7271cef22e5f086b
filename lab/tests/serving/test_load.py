"""The load generator: what becomes of each request, and the loops that send them."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import numpy as np
import pytest
from illava_lab.benchmarks.serving import client as sending
from illava_lab.benchmarks.serving.client import Client
from illava_lab.benchmarks.serving.loops import arrivals, closed, opened
from illava_lab.benchmarks.serving.prompts import Prompts

from .fake import serving

BODY = {"model": "m", "messages": []}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(sending, "FIRST_PAUSE", 0.01)


def ask(script, patience=60.0):
    """The outcome of one request, and the attempts that the server saw."""

    async def one(url):
        async with Client(url, time.monotonic(), patience) as client:
            return await client.ask(7, BODY)

    with serving(script) as server:
        return asyncio.run(one(server.url)), server.attempts


def test_an_answer():
    outcome, attempts = ask(lambda *_: None)
    assert (outcome.kind, outcome.text, attempts) == ("answered", "green", 1)
    assert (outcome.tokens, outcome.visual) == (2, (144, 48))
    assert 0 <= outcome.due <= outcome.sent <= outcome.first <= outcome.end
    assert outcome.ttft == outcome.first - outcome.due
    assert outcome.record()["kind"] == "answered"


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (429, "429: not now"),
        (503, "503: not now"),
        ("break", "the stream broke off"),
        ("drop", "RemoteProtocolError"),
        ("error", "error in the stream: it broke"),
        ("cut", "a broken event in the stream"),
    ],
)
def test_what_can_be_retried_is(trouble, said):
    outcome, attempts = ask(lambda number, _: trouble if number < 2 else None)
    assert (outcome.kind, outcome.text, attempts) == ("retried", "green", 3)
    assert outcome.troubles == [said, said]
    outcome, attempts = ask(lambda *_: trouble, patience=0.0)
    assert (outcome.kind, attempts) == ("lost", 1)
    assert outcome.accepted == (trouble in ("break", "error", "cut"))
    assert outcome.ttft is outcome.latency is None
    assert outcome.record()["troubles"] == [said]


def test_what_would_fail_again_is_not():
    outcome, attempts = ask(lambda *_: 400)
    assert (outcome.kind, attempts) == ("refused", 1)


def test_nobody_there():
    async def one():
        async with Client("http://127.0.0.1:1", time.monotonic(), 0.2) as client:
            return await client.ask(3, BODY)

    outcome = asyncio.run(one())
    assert outcome.kind == "lost"
    assert not outcome.accepted
    assert set(outcome.troubles) == {"ConnectError"}
    assert len(outcome.troubles) > 1


def loop(script, run):
    """The outcomes of a loop, and the server."""

    async def go(url):
        async with Client(url, time.monotonic()) as client:
            return await run(client)

    with serving(script) as server:
        return asyncio.run(go(server.url)), server


def test_a_closed_loop_has_so_many_under_way():
    numbers = itertools.count()
    outcomes, server = loop(
        lambda *_: time.sleep(0.01),
        lambda client: closed(client, lambda n: {**BODY, "n": n}, numbers, 3, 0.4),
    )
    assert server.most == 3
    assert sorted(one.number for one in outcomes) == list(range(len(outcomes)))
    assert sorted(body["n"] for body in server.bodies) == list(range(len(outcomes)))
    assert all(one.answered for one in outcomes)


def test_an_open_loop_waits_for_nobody():
    expected = arrivals(100, 0.3, seed=1)
    together = threading.Barrier(len(expected))

    def script(*_):
        # Nobody is answered before all have come.
        together.wait(60)

    outcomes, server = loop(
        script,
        lambda client: opened(client, lambda n: BODY, itertools.count(), 100, 0.3, seed=1),
    )
    assert server.most == len(expected) == len(outcomes)
    first = min(one.due for one in outcomes) - expected[0]
    assert sorted(one.due - first for one in outcomes) == pytest.approx(expected)
    assert all(one.ttft > 0 for one in outcomes)


def test_arrivals_are_a_poisson_process():
    times = np.array(arrivals(50, 200, seed=0))
    assert arrivals(50, 200, seed=0) == times.tolist() != arrivals(50, 200, seed=1)
    assert abs(len(times) - 10000) < 5 * 100
    gaps = np.diff(times)
    assert gaps.min() > 0
    # An exponential distribution has its mean as its standard deviation.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert np.corrcoef(gaps[1:], gaps[:-1])[0, 1] == pytest.approx(0, abs=0.05)


def test_requests_are_the_same_in_every_run(tmp_path):
    first, again = Prompts("m", side=48), Prompts("m", side=48)
    assert first.body(5) == again.body(5) == first.body(5 + 64)
    urls = {first.body(n)["messages"][0]["content"][0]["image_url"]["url"] for n in range(64)}
    assert len(urls) == 64
    two = Prompts("m", side=48, pictures=2, tokens=3).body(0)
    kinds = [part["type"] for part in two["messages"][0]["content"]]
    assert kinds == ["image_url", "image_url", "text"]
    assert two["max_tokens"] == 3
    assert two["stream"] is True
