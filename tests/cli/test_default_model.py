"""The model that ``ask`` and ``look`` use where none is named."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from illava_lab import demo, zoo

from illava import plugins

from .conftest import assert_error, invoke

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
def test_the_default_is_named(registered, picture, tmp_path, command):
    more = () if command == "ask" else ("--output", tmp_path / "out")
    result = invoke(command, picture, "What?", *more, *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stderr == "illava: mine/photo answers; --model chooses another model\n"
    result = invoke(command, picture, "What?", "--model", "zoo/S", *more, *SMALL)
    assert result.stderr == ""


def test_json_stays_alone(registered, picture):
    result = invoke("ask", picture, "What?", "--json", *SMALL)
    assert json.loads(result.stdout)["model"] == "mine/photo"
    assert "mine/photo answers" in result.stderr


@pytest.mark.parametrize("command", ["ask", "look"])
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_name_is_refused(registered, picture, tmp_path, command, empty):
    more = () if command == "ask" else ("--output", tmp_path / "out")
    assert_error(invoke(command, picture, "What?", "--model", empty, *more), "no such folder; give a folder")


def test_a_provider_that_fails_is_passed_over(registered, picture, monkeypatch):
    mine = plugins.models()["mine"]
    monkeypatch.setattr(mine, "default_for", lambda images: 1 / 0)
    monkeypatch.setattr(zoo, "default_for", lambda images: "zoo/S")
    result = invoke("ask", picture, "What?", *SMALL)
    assert result.exit_code == 0, result.output
    warned, named = result.stderr.splitlines()
    assert warned.startswith("illava: warning: mine: its choice of a model for ")
    assert warned.endswith("cannot be used: ZeroDivisionError: division by zero")
    assert named == "illava: zoo/S answers; --model chooses another model"


def test_how_to_make_what_would_answer(monkeypatch, tmp_path):
    monkeypatch.setenv("ILLAVA_CACHE", str(tmp_path))
    result = invoke("ask", "demo/hopper.jpg", "What?", "--json", *SMALL)
    assert json.loads(result.stdout)["model"] == "zoo/L"
    hint, named = result.stderr.splitlines()
    assert "the default for demo/hopper.jpg would be zoo/R" in hint
    assert "it has not been made on this machine: run `make zoo-real`" in hint
    assert named == "illava: zoo/L answers; --model chooses another model"


def test_an_unusable_cache_hides_no_other_model(monkeypatch):
    monkeypatch.setenv("ILLAVA_CACHE", "~no-such-user/x")
    plugins._registered.cache_clear()
    try:
        result = invoke("ask", "demo/word.png", "What?", *SMALL)
        assert result.exit_code == 0, result.output
        assert result.stderr == "illava: zoo/L answers; --model chooses another model\n"
        refused = invoke("ask", "demo/word.png", "What?", "--model", "zoo/R", *SMALL)
        assert_error(refused, "model zoo/R: the cache folder ~no-such-user/x: there is no such home folder")
    finally:
        plugins._registered.cache_clear()


@pytest.mark.parametrize("command", ["ask", "look"])
def test_help_says_which(command):
    said = " ".join(invoke(command, "--help").stdout.replace("│", " ").split())
    assert plugins.DEFAULT_MODEL_HELP in said
