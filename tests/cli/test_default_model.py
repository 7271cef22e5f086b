"""The model that ``ask`` and ``look`` use where none is named."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from illava_lab import demo, zoo

from illava import plugins

from .conftest import invoke

SMALL = ("--max-new-tokens", 2, "--device", "cpu")


@pytest.fixture
def registered(monkeypatch, folder):
    """A provider with a model for everything but the image ``demo/word.png``, beside those of the lab."""

    def default_for(images):
        return None if images == ("demo/word.png",) else "mine/photo"

    mine = SimpleNamespace(names=lambda: ["mine/photo"], path=lambda name: folder, default_for=default_for)
    groups = {plugins.MODELS: {"mine": mine, "zoo": zoo}, plugins.IMAGES: {"demo": demo}, plugins.TASKS: {}}
    monkeypatch.setattr(plugins, "_registered", groups.__getitem__)
    monkeypatch.setattr(plugins, "prefixes", lambda: {"mine", "zoo"})
    monkeypatch.setattr("illava.models.loading.prefixes", lambda: {"mine", "zoo"})


def asked(*words):
    result = invoke("ask", *words, "What?", "--json", *SMALL)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["model"]


def test_ask(registered, picture):
    assert asked(picture) == "mine/photo"
    assert asked(picture, "demo/word.png") == "mine/photo"
    assert asked("demo/word.png") == "zoo/L"
    assert asked(picture, "--model", "zoo/S") == "zoo/S"


def test_look(registered, picture, tmp_path):
    def looked(shown, *more):
        result = invoke("look", shown, "What?", "--output", tmp_path / "out", *more, *SMALL)
        assert result.exit_code == 0, result.output
        (page,) = (tmp_path / "out").glob(f"{picture.name if shown == picture else 'word.png'}*.html")
        return page.read_text()

    assert "mine/photo" in looked(picture)
    assert "mine/photo" not in looked("demo/word.png")
    assert "mine/photo" not in looked(picture, "--model", "zoo/S")


def test_a_video_has_the_usual_model(registered, tmp_path, monkeypatch, picture):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(2):
        (frames / f"{number}.png").write_bytes(picture.read_bytes())
    result = invoke("look", frames, "What?", "--output", tmp_path / "out", *SMALL)
    assert result.exit_code == 0, result.output
    (page,) = (tmp_path / "out").glob("*.html")
    assert "zoo/L" in page.read_text()


@pytest.mark.parametrize("command", ["ask", "look"])
def test_help_says_which(command):
    said = " ".join(invoke(command, "--help").stdout.replace("│", " ").split())
    assert plugins.DEFAULT_MODEL_HELP in said
