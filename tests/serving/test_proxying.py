"""Ray Serve's proxies: a replica that dies, or queues that are full, are errors with Retry-After."""

from __future__ import annotations

import asyncio
import os
from importlib import import_module

import httpx
import pytest

from illava.serving import proxying

RAYS = [[b"content-type", b"text/plain; charset=utf-8"]]
JSON = [[b"content-type", b"application/json"]]


def answered(*messages, path="/v1/chat/completions"):
    """What a client gets where Ray Serve's proxy sends these messages."""

    async def proxy(scope, receive, send):
        for message in messages:
            await send(message)

    (middleware,) = proxying.middlewares()
    app = middleware.cls(proxy, *middleware.args, **middleware.kwargs)

    async def get():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://toy") as client:
            return await client.get(path)

    return asyncio.run(get())


def start(status, headers):
    return {"type": "http.response.start", "status": status, "headers": headers}


def piece(text, more=False):
    return {"type": "http.response.body", "body": text, "more_body": more}


def test_a_replica_that_dies_before_its_answer():
    response = answered()
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    error = response.json()["error"]
    assert error["type"] == "server_error"
    assert error["message"] == "the replica that had this request has ended; send it again"


@pytest.mark.parametrize("status", [408, 429, 503])
def test_what_ray_serve_says_itself_is_an_error_like_others(status):
    response = answered(start(status, RAYS), piece(b"all are\n", more=True), piece(b"full"))
    assert (response.status_code, response.headers["retry-after"]) == (status, "1")
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["message"] == "all are full"


@pytest.mark.parametrize(
    ("status", "headers", "path"),
    [
        (200, JSON, "/v1/chat/completions"),
        (503, JSON, "/v1/chat/completions"),
        (500, JSON, "/v1/chat/completions"),
        (200, RAYS, "/metrics"),
        (503, RAYS, "/-/healthz"),
    ],
)
def test_all_else_is_passed_on(status, headers, path):
    response = answered(start(status, headers), piece(b"one ", more=True), piece(b"two"), path=path)
    assert (response.status_code, response.text) == (status, "one two")
    assert response.headers["content-type"] == headers[0][1].decode()
    assert "retry-after" not in response.headers


def test_a_stream_that_breaks_off_stays_broken():
    """Its beginning is with the client already, and a second response would make one of two."""
    messages = []

    async def proxy(scope, receive, send):
        await send(start(200, JSON))
        await send(piece(b"half", more=True))

    async def send(message):
        messages.append(message)

    asyncio.run(proxying.Retriable(proxy)({"type": "http", "path": "/"}, None, send))
    assert messages == [start(200, JSON), piece(b"half", more=True)]


def test_ray_finds_it_by_its_name_unless_the_user_has_another(monkeypatch):
    # Not "delenv": what install() sets must be gone after the test.
    monkeypatch.setenv(proxying.VARIABLE, "theirs:own")
    proxying.install()
    assert os.environ[proxying.VARIABLE] == "theirs:own"
    del os.environ[proxying.VARIABLE]
    proxying.install()
    module, _, name = os.environ[proxying.VARIABLE].partition(":")
    assert getattr(import_module(module), name) is proxying.middlewares
