"""Servers on loopback: of a toy model that answers, and of a random one that never ends an answer."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest
from PIL import Image

from illava.ask import load
from tests.cli.conftest import folder, one_thread

__all__ = ["folder", "one_thread"]
WAIT = 120
"""Seconds after which a test gives up. No test asserts how long something takes."""

# Without the extra illava[serve] there is nothing to test here.
if not all(map(find_spec, ("fastapi", "uvicorn", "httpx", "prometheus_client"))):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def toy() -> tuple[Any, Any]:
    """A small trained model, whose answers are words."""
    return load("zoo/S")


@pytest.fixture(scope="session")
def endless(folder) -> tuple[Any, Any]:
    """A tiny random model without an end token."""
    model, processor = load(str(folder))
    model.generation_config.eos_token_id = None
    return model, processor


@dataclass
class Running:
    """A server on loopback, and its engine."""

    url: str
    engine: Any

    def post(self, body: Any = None, *, path: str = "/v1/chat/completions", **options: Any) -> Any:
        """The response to a POST of JSON."""
        import httpx

        with httpx.Client(base_url=self.url, timeout=WAIT, trust_env=False) as client:
            return (
                client.post(path, json=body, **options) if body is not None else client.post(path, **options)
            )

    def get(self, path: str, **options: Any) -> Any:
        """The response to a GET."""
        import httpx

        return httpx.get(self.url + path, timeout=WAIT, trust_env=False, **options)

    def ask(self, *parts: Any, **options: Any) -> Any:
        """The answer's JSON to one user turn. Fails unless the status is 200."""
        response = self.post(body(self, *parts, **options))
        assert response.status_code == 200, response.text
        return response.json()

    def stream(self, *parts: Any, **options: Any) -> list[dict[str, Any]]:
        """The events of a streamed answer, without the last one, which says that it is the last."""
        response = self.post(body(self, *parts, stream=True, **options))
        assert response.headers["content-type"].startswith("text/event-stream"), response.text
        lines = [line for line in response.text.split("\n\n") if line]
        assert lines.pop() == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def metric(self, name: str, **labels: str) -> float:
        """A number that the server counts."""
        return self.engine.metrics.registry.get_sample_value(f"illava_{name}", labels) or 0.0


@contextmanager
def running(loaded: tuple[Any, Any], fetcher: Any = None, **settings: Any) -> Iterator[Running]:
    """Serve a model as ``illava serve`` does, on a free port of loopback."""
    import uvicorn

    from illava.serving.app import create_app
    from illava.serving.engine import Engine
    from illava.serving.settings import Settings

    chosen = Settings(**{"name": "toy", "keep": 1 / 9, "max_wait_ms": 0, **settings})
    engine = Engine(*loaded, chosen)
    config = uvicorn.Config(create_app(engine, chosen, fetcher), log_level="error", access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", engine)
        finally:
            server.should_exit = True
            thread.join(WAIT)
            assert not thread.is_alive()
            assert not engine.alive


def until(done: Callable[[], Any]) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + WAIT
    while not (found := done()):
        assert time.monotonic() < end, "this never came true"
        time.sleep(0.01)
    return found


def body(server: Any, *parts: Any, **options: Any) -> dict[str, Any]:
    """The body of a request with one user turn of texts, pictures and lists of frames."""
    named = {"model": server.engine.settings.name, "messages": [user(*parts)]}
    return {**named, **options}


def user(*parts: Any) -> dict[str, Any]:
    """A user turn of texts, pictures and lists of frames."""
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        elif isinstance(part, list):
            content.append({"type": "video", "video": [data_url(frame) for frame in part]})
        else:
            content.append({"type": "image_url", "image_url": {"url": data_url(part)}})
    return {"role": "user", "content": content}


def data_url(picture: Image.Image | bytes, kind: str = "png") -> str:
    """A picture, or the bytes of any file, as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(as_bytes(picture, kind)).decode()}"


def as_bytes(picture: Image.Image | bytes, kind: str = "png") -> bytes:
    """The file of a picture."""
    if isinstance(picture, bytes):
        return picture
    file = io.BytesIO()
    picture.save(file, format=kind)
    return file.getvalue()


def text_of(answer: dict[str, Any]) -> str:
    """The text of an answer's JSON."""
    return answer["choices"][0]["message"]["content"]


def streamed_text(events: list[dict[str, Any]]) -> str:
    """The text of a streamed answer."""
    return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


class Gate:
    """Records the batches of an engine, and holds each back until the gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.open = threading.Event()
        self.ended = 0
        """Calls of generate() that have returned."""


@pytest.fixture
def gate(monkeypatch) -> Iterator[Gate]:
    """A gate before the model of every engine; it is open."""
    from illava.serving import engine as work

    gate, generate = Gate(), work.generate

    def held(model, inputs, tokenizer, jobs, *rest):
        gate.batches.append(list(jobs))
        assert gate.open.wait(WAIT)
        try:
            generate(model, inputs, tokenizer, jobs, *rest)
        finally:
            gate.ended += 1

    monkeypatch.setattr(work, "generate", held)
    gate.open.set()
    yield gate
    gate.open.set()


def together(*calls: Callable[[], Any]) -> list[threading.Thread]:
    """Begin calls in threads of their own."""
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def queued(server: Running) -> int:
    """The number of jobs that are ready and wait for the model."""
    return len(server.engine._waiting._jobs)
