"""A small trained model, a file of rows about its pictures, and the answers to them one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from illava.io.pictures import open_picture
from tests.cli.conftest import folder, one_thread

__all__ = ["folder", "one_thread"]

# Without pydantic and the rest of the extra illava[serve] there is nothing to test here.
if not all(map(find_spec, ("pydantic", "prometheus_client"))):
    collect_ignore_glob = ["test_*.py"]

HEART, DIAMOND = "What colour is the heart?", "Is there a red diamond?"


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder with pictures of several sizes, one that is broken and one that is none."""
    number = open_picture("demo/number.png")
    number.save(tmp_path / "number.png")
    number.resize((96, 96)).save(tmp_path / "small.png")
    number.resize((288, 192)).save(tmp_path / "wide.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "number.png").read_bytes()[:400])
    (tmp_path / "none.png").write_text("no picture")
    return tmp_path


def write(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON lines; strings as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, each of which is a JSON object."""
    text = path.read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def timeless(line: dict[str, Any]) -> dict[str, Any]:
    """A line of OUT without what differs between runs: the id and the time of an answer of OpenAI's shape."""
    if "response" not in line:
        return line
    body = {key: value for key, value in line["response"]["body"].items() if key not in ("id", "created")}
    return {**line, "response": {**line["response"], "body": body}}


def openai_row(name: str, *parts: Any, **fields: Any) -> dict[str, Any]:
    """A row of OpenAI's shape with one user turn of texts and paths of pictures."""
    content = [
        {"type": "image_url", "image_url": {"url": part}}
        if part.endswith(".png")
        else {"type": "text", "text": part}
        for part in parts
    ]
    body = {"messages": [{"role": "user", "content": content}], **fields}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
