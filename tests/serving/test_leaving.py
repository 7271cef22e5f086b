"""Clients that leave, time that is up, a queue that is full, a model that fails, a server that stops."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
import torch

from illava.ask import load
from illava.io.pictures import open_picture

from .conftest import WAIT, body, queued, running, text_of, together, until

HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)
LONG = 3000
"""New tokens of an answer that nobody waits for."""


@pytest.fixture(scope="module")
def server(endless):
    with running(endless, max_queue=3, max_tokens=LONG, max_prompt_tokens=600) as one:
        yield one


@pytest.fixture(scope="module")
def another(folder):
    """The same model once more, for servers of their own."""
    model, processor = load(str(folder))
    model.generation_config.eos_token_id = None
    return model, processor


@pytest.fixture
def steps(endless, another):
    """Every call of a language model's head: a token of each row of the batch."""
    counted = []
    heads = [model.lm_head for model, _ in (endless, another)]
    hooks = [head.register_forward_hook(lambda *_: counted.append(1)) for head in heads]
    yield counted
    for hook in hooks:
        hook.remove()


def raw(server, content: dict) -> socket.socket:
    """A connection on which a request has been sent."""
    import json

    data = json.dumps(content).encode()
    port = int(server.url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
    connection.sendall(HEAD % len(data) + data)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_stops_the_answer(server, gate, steps, stream):
    before = server.metric("cancelled_total")
    connection = raw(server, body(server, "What?", stream=stream))
    until(lambda: len(steps) > 5)
    if stream:
        assert connection.recv(10).startswith(b"HTTP/1.1 2")
    connection.close()
    until(lambda: gate.ended == 1)
    assert len(steps) < LONG
    until(lambda: server.metric("cancelled_total") == before + 1)
    assert server.metric("running_requests") == server.metric("waiting_requests") == 0
    assert server.ask("What?", max_tokens=2)["usage"]["completion_tokens"] == 2


def test_who_leaves_the_queue_frees_a_place(server, gate):
    gate.open.clear()
    threads = together(lambda: server.ask("first", max_tokens=1))
    until(lambda: len(gate.batches) == 1)
    connections = [raw(server, body(server, "What?")) for _ in range(3)]
    until(lambda: queued(server) == 3)
    response = server.post(body(server, "What?"))
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"] == {
        "message": f"3 requests are waiting; try again in {response.headers['retry-after']} s",
        "type": "rate_limit_error",
        "param": None,
        "code": "queue_full",
    }
    connections[0].close()
    until(lambda: server.engine.places.taken == 2)
    threads += together(lambda: server.ask("last", max_tokens=1))
    until(lambda: queued(server) == 4)
    for connection in connections[1:]:
        connection.close()
    until(lambda: server.engine.places.taken == 1)
    gate.open.set()
    for thread in threads:
        thread.join()
    # Those who left were not answered.
    assert [len(batch) for batch in gate.batches] == [1, 1]
    assert server.engine.places.taken == 0


def test_an_unfinished_body_has_a_place_and_leaves_it(server):
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(HEAD % 99 + b"{")
        until(lambda: server.engine.places.taken == 1)
    until(lambda: server.engine.places.taken == 0)


def test_the_first_row_to_end_is_answered_before_the_batch_ends(server, gate, steps):
    gate.open.clear()
    threads = together(lambda: server.ask("first", max_tokens=1))
    until(lambda: len(gate.batches) == 1)
    connection = raw(server, body(server, "What is it?"))
    until(lambda: queued(server) == 1)
    answers = []
    threads += together(lambda: answers.append(server.ask("What?", max_tokens=2)))
    until(lambda: queued(server) == 2)
    gate.open.set()
    for thread in threads:
        thread.join()
    assert answers[0]["usage"]["completion_tokens"] == 2
    assert gate.ended == 1
    connection.close()
    until(lambda: gate.ended == 2)
    assert len(steps) < LONG


def test_time_is_up(another, gate):
    with running(another, timeout=0.5, max_tokens=LONG) as server:
        gate.open.clear()
        response = server.post(body(server, "What?"))
        gate.open.set()
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "timeout"
        until(lambda: gate.ended == 1)
        # A stream that has begun ends with an error instead of its last event.
        response = server.post(body(server, "What?", stream=True))
        if response.status_code == 200:
            assert '"code":"timeout"' in response.text.rstrip().rpartition("\n\n")[2]
            assert "[DONE]" not in response.text
        until(lambda: gate.ended == 2)
        assert server.engine.places.taken == 0


def test_a_prompt_that_fails_does_not_fail_its_batch(server, gate, monkeypatch):
    real = type(server.engine.model).generate

    def generate(model, *args, **kwargs):
        if len(kwargs["input_ids"]) > 1 or kwargs["max_new_tokens"] == 3:
            raise RuntimeError("a secret of the model")
        return real(model, *args, **kwargs)

    server.engine._release()
    monkeypatch.setattr(server.engine.model, "generate", generate.__get__(server.engine.model), raising=False)
    gate.open.clear()
    responses = {}
    threads = together(lambda: server.ask("first", max_tokens=1))
    until(lambda: len(gate.batches) == 1)
    for number in (2, 3, 4):
        call = lambda n=number: responses.__setitem__(n, server.post(body(server, "What?", max_tokens=n)))  # noqa: E731
        threads += together(call)
        until(lambda: queued(server) == number - 1)  # noqa: B023
    gate.open.set()
    for thread in threads:
        thread.join()
    assert [responses[n].status_code for n in (2, 3, 4)] == [200, 500, 200]
    assert "secret" not in responses[3].text
    assert responses[3].json()["error"]["type"] == "server_error"
    assert [len(batch) for batch in gate.batches] == [1, 3, 1, 1, 1]
    server.engine._release()


def test_a_fault_of_the_server_is_an_error_like_others(server, monkeypatch):
    def fail(*_):
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(server.engine, "choose", fail)
    count = {"path": "/v1/chat/completions", "status": "500"}
    before = server.metric("requests_total", **count)
    response = server.post(body(server, "What?", keep=0.5))
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert server.metric("requests_total", **count) == before + 1
    assert server.engine.places.taken == 0


def test_too_little_memory(server, monkeypatch):
    from illava.serving import engine as work

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(work, "generate", fail)
    response = server.post(body(server, "What?"))
    assert response.status_code == 503
    assert "fewer or smaller pictures" in response.json()["error"]["message"]


def test_a_server_that_stops_ends_its_answers(another, gate, steps):
    statuses = []
    with running(another, max_tokens=LONG) as server:
        threads = together(lambda: statuses.append(server.post(body(server, "What?")).status_code))
        until(lambda: len(steps) > 3)
        threads += together(lambda: statuses.append(server.post(body(server, "What?")).status_code))
        until(lambda: queued(server) == 1)
        asyncio.run(asyncio.to_thread(server.engine.close))
        for thread in threads:
            thread.join(WAIT)
        assert statuses == [503, 503]
        assert len(steps) < LONG
        assert server.get("/health").status_code == 503
        assert server.post(body(server, "What?")).status_code == 503


def test_what_is_counted(toy):
    with running(toy, max_tokens=8) as server:
        used = [
            server.ask(open_picture("demo/number.png"), "What colour is the heart?", keep=keep)["usage"]
            for keep in ("1/9", "1/3")
        ]
        used.append(server.ask("What?")["usage"])
        server.post(body(server, "What?", n=2))
        server.get("/nothing")
        text = server.get("/metrics").text
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        counts = {name: float(value) for name, value in lines.items()}
        visual = [one["visual_tokens"] for one in used]
        expected = {
            'requests_total{path="/v1/chat/completions",status="200"}': 3,
            'requests_total{path="/v1/chat/completions",status="400"}': 1,
            'requests_total{path="other",status="404"}': 1,
            "prompt_tokens_total": sum(one["prompt_tokens"] for one in used),
            "completion_tokens_total": sum(one["completion_tokens"] for one in used),
            "visual_tokens_total": sum(one["before"] for one in visual),
            "visual_tokens_dropped_total": sum(one["before"] - one["after"] for one in visual),
            "time_to_first_token_seconds_count": 3,
            "tokens_per_second_count": sum(one["completion_tokens"] > 1 for one in used),
            "batch_size_count": 3,
            'batch_size_bucket{le="1.0"}': 3,
            "cancelled_total": 0,
            "waiting_requests": 0,
            "running_requests": 0,
        }
        assert {name: counts[f"illava_{name}"] for name in expected} == expected
        assert expected["visual_tokens_dropped_total"] == (144 - 16) + (144 - 48)


def test_nothing_is_written_to_disk(toy, tmp_path, monkeypatch):
    import os
    import sys

    opened, watching = [], [False]

    def hook(event, arguments):
        if watching[0] and event == "open":
            path, mode, flags = arguments
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (
                isinstance(flags, int) and flags & writes
            ):
                opened.append(path)
        elif watching[0] and event in ("os.mkdir", "os.rename", "tempfile.mkstemp", "tempfile.mkdtemp"):
            opened.append((event, arguments))

    sys.addaudithook(hook)
    with running(toy, max_tokens=8) as server:
        watching[0] = True
        try:
            server.ask(open_picture("demo/number.png"), "What colour is the heart?")
            server.stream([open_picture("demo/number.png")] * 4, "What colour is the heart?")
            server.post(body(server, b"broken", "What?"))
            with httpx.Client(trust_env=False) as client:
                client.post(server.url + "/v1/chat/completions", content=b"x" * 10**6)
            with open(tmp_path / "witness", "w"):
                pass
        finally:
            watching[0] = False
    assert opened == [tmp_path / "witness"] or opened == [str(tmp_path / "witness")]


def test_answers_after_all_this(server):
    assert text_of(server.ask("What?", max_tokens=4)) == text_of(server.ask("What?", max_tokens=4))
