"""``illava serve --replicas 2``: the same answers, a replica that is killed under load, and the end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
from pathlib import Path

import httpx
from PIL import Image

import illava
from illava.ask import load
from tests.serving.conftest import user

from .conftest import LOOPBACK, WAIT

RETRIABLE = {429, 503, 504}
"""A plain 500, which Ray Serve's proxy gives by itself, is not among them."""
PICTURE = Image.radial_gradient("L").resize((96, 64)).convert("RGB")


def ask(url, key="key", **options):
    """(status, text) of an answer; 0 for a connection that broke."""
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": "micro", "messages": [user(PICTURE, "What is it?")], "max_tokens": 4, **options}
    try:
        response = httpx.post(
            f"{url}/chat/completions", json=body, headers=headers, timeout=WAIT, trust_env=False
        )
    except httpx.TransportError:
        return 0, ""
    if response.status_code != 200 or options.get("stream"):
        return response.status_code, response.text
    return 200, response.json()["choices"][0]["message"]["content"]


def one_process(folder):
    """The answer of an engine in this process."""
    from illava.serving.app import create_app
    from illava.serving.engine import Engine
    from illava.serving.settings import Settings

    settings = Settings("micro", keep=1 / 3, max_wait_ms=0)
    with Engine(*load(str(folder)), settings) as engine:
        transport = httpx.ASGITransport(create_app(engine, settings))

        async def post():
            async with httpx.AsyncClient(transport=transport, base_url="http://toy") as client:
                body = {"model": "micro", "messages": [user(PICTURE, "What is it?")], "max_tokens": 4}
                return (await client.post("/v1/chat/completions", json=body, timeout=WAIT)).json()

        return asyncio.run(post())["choices"][0]["message"]["content"]


def test_a_replica_is_killed_under_load(folder, start):
    command = start("serve", folder, "--keep", "1/3", "--replicas", 2, "--port", 0, "--api-key", "key")
    line = command.process.stdout.readline()
    assert line.startswith("Serving micro on http://127.0.0.1:"), command.end()
    assert ", 2 replicas; press Ctrl-C to stop." in line
    url = line.split()[3].rstrip(",")
    assert command.listening() <= LOOPBACK
    assert ask(url, "wrong")[0] == 401
    under_load(command, url, one_process(folder))
    command.process.send_signal(signal.SIGINT)
    said, errors = command.end()
    assert (command.process.returncode, said) == (0, ""), errors
    assert "Traceback" not in errors
    assert not command.processes()
    assert not list(command.temporary.glob("illava-ray-*"))


def under_load(command, url, expected):
    """Kill one of two replicas while four clients ask; every request is answered when it is sent again."""
    replicas = command.processes("ray::ServeReplica:")
    assert len(replicas) == 2
    assert ask(url) == (200, expected)
    status, text = ask(url, stream=True)
    assert status == 200
    assert text.endswith("data: [DONE]\n\n")
    assert httpx.get(f"{url[:-3]}/health", timeout=WAIT, trust_env=False).json() == {"status": "ok"}
    seen, stop, answered = [], threading.Event(), []

    def client():
        while not stop.is_set():
            found = ask(url)
            seen.append(found[0])
            while found[0] != 200 and len(seen) < 10_000:
                stop.wait(0.2)
                found = ask(url)
                seen.append(found[0])
            answered.append(found)

    clients = [threading.Thread(target=client, daemon=True) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        command.until(lambda: len(answered) >= 4)
        victim = next(iter(replicas))
        os.kill(victim, signal.SIGKILL)
        count = len(answered)
        command.until(lambda: len(answered) > count + 4)
        # It comes back, as another process.
        command.until(lambda: len(set(command.processes("ray::ServeReplica:")) - {victim}) == 2)
        count = len(answered)
        command.until(lambda: len(answered) > count + 4)
    finally:
        stop.set()
        for thread in clients:
            thread.join(WAIT)
    assert set(answered) == {(200, expected)}
    assert set(seen) <= {200, 0, *RETRIABLE}


def test_what_replicas_refuse_is_one_line(folder, start, tmp_path):
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    illava.FastV(layer=9).save_pretrained(model)
    command = start("serve", model, "--replicas", 1, "--port", 0)
    said, errors = command.end()
    assert (command.process.returncode, said) == (2, "")
    assert errors.splitlines()[-1].startswith("illava: method fastv: ")
    assert "Traceback" not in errors
