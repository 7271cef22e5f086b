"""The image that the page shows from the start: for models whose provider has one, and it is never lost."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from types import SimpleNamespace

import pytest

from illava import plugins
from illava.demo.server import Server


@pytest.fixture
def original(tmp_path):
    file = tmp_path / "bundled" / "mine.jpg"
    file.parent.mkdir()
    file.write_bytes(b"a photograph")
    return file


@pytest.fixture
def registered(monkeypatch, original):
    """A provider with an example for ``mine/a``, and one of the image."""
    shown = {"mine/a": ("shown/mine.jpg", "What is it?"), "mine/b": (str(original), "And here?")}
    models = SimpleNamespace(names=lambda: list(shown), path=lambda name: original, example=shown.get)
    images = SimpleNamespace(names=lambda: ["shown/mine.jpg"], path=lambda name: original)
    groups = {plugins.MODELS: {"mine": models}, plugins.IMAGES: {"shown": images}}
    monkeypatch.setattr(plugins, "_registered", groups.__getitem__)


def test_it_is_that_of_the_first_model(registered, original):
    assert Server(["mine/a", "mine/b"]).example() == (original, "What is it?")
    assert Server(["mine/b"]).example() == (original, "And here?")
    assert Server(["some/folder", "mine/a"]).example() is None


def test_the_end_of_a_session_does_not_delete_it(registered, original, tmp_path):
    server = Server(["mine/a"])
    upload = tmp_path / "upload.jpg"
    upload.write_bytes(b"x")
    server.note("one", [str(upload), str(original)])
    server.forget("one")
    assert original.exists()
    assert not upload.exists()


def test_what_a_session_holds_is_new_again(registered, original, tmp_path):
    day_ago = time.time() - 86_400
    os.utime(original, (day_ago, day_ago))
    Server(["mine/a"]).note("one", [str(original), str(tmp_path / "deleted")])
    assert time.time() - original.stat().st_mtime < 60


def test_the_page_hands_out_copies(registered, original, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    from gradio_client import Client

    from illava.demo.page import build, launch

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    # Gradio hands out whatever is in these two folders.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    server = Server(["mine/a"])
    page = build(server)
    address = launch(page, "127.0.0.1", _free_port(), [original])
    try:
        client = Client(address, verbose=False, download_files=False)
        for _ in range(2):
            assert len(client.predict(api_name="/example")) == 1
            copies = list((tmp_path / "cache").rglob("mine.jpg"))
            assert [file.read_bytes() for file in copies] == [b"a photograph"]
            # The next session gets a new copy where this one's end deleted it.
            copies[0].unlink()
    finally:
        page.close()
    questions = [block.value for block in page.blocks.values() if getattr(block, "elem_id", "") == "question"]
    assert questions == ["What is it?"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
