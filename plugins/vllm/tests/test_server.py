"""vLLM's own server, whose engine runs in another process than the one that prepares prompts."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkpoints import picture

STARTS = 600
"""Seconds within which it is up."""


@pytest.fixture
def server(checkpoint: Callable[[str], Path], tmp_path: Path) -> Iterator[str]:
    """The address of a server of Qwen2-VL with keep=0.4."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(checkpoint("qwen2_vl")),
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", "--enforce-eager"]
    command += ["--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "4"]
    command += ["--additional-config", json.dumps({"illava": {"keep": 0.4}})]
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + STARTS
        while not _is_up(address):
            log_text = (tmp_path / "log").read_text(errors="replace")[-4000:]
            assert running.poll() is None, log_text
            assert time.monotonic() < until, log_text
            time.sleep(2)
        yield address
    finally:
        running.terminate()
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            running.kill()


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_client_gets_short_prompts(server: str) -> None:
    buffer = io.BytesIO()
    picture(64, 48, 1).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": "What?"},
    ]
    usages = []
    for kept in (content, content[1:]):
        body = {"model": "tiny", "max_tokens": 3, "messages": [{"role": "user", "content": kept}]}
        request = urllib.request.Request(
            f"{server}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            usages.append(json.load(answer)["usage"]["prompt_tokens"])
    # 19 of 48 units, the marks before and after, and a line break.
    assert usages[0] - usages[1] == 19 + 2 + 1
