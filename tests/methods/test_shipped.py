"""``illava_config.json`` beside the weights: ``accelerate(model)`` uses it, and refuses a broken one."""

from __future__ import annotations

import json
import socket
import time
import warnings
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForImageTextToText

import illava
from illava.methods import shipped

from ..tiny import tiny_model

METHOD = illava.FastV(layer=2, keep=0.5)
DEFAULT = illava.Illava.best(1 / 3)


@pytest.fixture
def folder(tmp_path):
    tiny_model("qwen2_vl").save_pretrained(tmp_path)
    return tmp_path


def load(folder):
    return AutoModelForImageTextToText.from_pretrained(folder)


def used(model, *args, **kwargs):
    with illava.accelerate(model, *args, **kwargs) as handle:
        return handle.method


def test_accelerate_uses_the_file_unless_it_is_told_otherwise(folder):
    assert used(load(folder)) == DEFAULT
    METHOD.save_pretrained(folder)
    model = load(folder)
    assert used(model) == METHOD
    assert used(model, illava.Illava()) == illava.Illava()
    assert used(model, keep=1 / 3) == illava.Illava.best(1 / 3)


def test_a_model_made_from_a_config_has_no_weights_to_lie_beside(folder):
    METHOD.save_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    assert config._name_or_path == str(folder)
    assert used(AutoModelForImageTextToText.from_config(config)) == DEFAULT
    assert used(tiny_model("qwen2_vl")) == DEFAULT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{broken", "cannot read"),
        ('{"method": "magic"}', "unknown method 'magic'"),
        ('{"method": "illava", "version": 3}', "pip install --upgrade illava"),
        ('{"method": "illava", "keep": 7}', "keep must lie in"),
    ],
)
def test_a_broken_file_is_named_in_one_line(folder, text, message):
    (folder / "illava_config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        illava.accelerate(load(folder))
    assert str(folder / "illava_config.json") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def hub(monkeypatch):
    """Counts what is asked of the hub, which answers with ``hub.answer``."""
    asked = SimpleNamespace(calls=[], answer=None)

    class Session:
        def head(self, url, headers, timeout):
            assert timeout == shipped.SECONDS
            asked.calls.append(url.removeprefix(constants.ENDPOINT))
            if isinstance(asked.answer, Exception):
                raise asked.answer
            return SimpleNamespace(status_code=404 if asked.answer is None else 302)

    monkeypatch.setattr(shipped, "get_session", Session)
    monkeypatch.setattr(shipped, "hf_hub_download", lambda *_, **__: asked.answer)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    shipped._on_hub.cache_clear()
    yield asked
    shipped._on_hub.cache_clear()


def from_hub(folder):
    model = load(folder)
    model.config._name_or_path, model.config._commit_hash = "someone/model", "0123abcd"
    return model


def test_the_hub_is_asked_once_for_the_commit_of_the_weights(folder, tmp_path, hub):
    hub.answer = str(METHOD.save_pretrained(tmp_path / "cache"))
    model = from_hub(folder)
    assert used(model) == used(model) == METHOD
    assert hub.calls == ["/someone/model/resolve/0123abcd/illava_config.json"]


@pytest.mark.parametrize("answer", [None, OSError("no route to host"), RuntimeError("anything")])
def test_without_a_file_or_a_connection_the_default_is_used(folder, hub, answer):
    hub.answer = answer
    model = from_hub(folder)
    # Said once, where it is not known whether there is one.
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert used(model) == used(model) == DEFAULT
    texts = [str(one.message) for one in said if "illava_config.json" in str(one.message)]
    assert len(texts) == (answer is not None)
    assert all("the hub cannot be reached" in text and "\n" not in text for text in texts)
    assert len(hub.calls) == 1, "what is missing is not asked for again"


def test_a_hub_that_never_answers_holds_nobody_up(folder, monkeypatch):
    """A real socket, which takes requests and is silent, as behind some firewalls."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(shipped, "SECONDS", 0.5)
        shipped._on_hub.cache_clear()
        began = time.monotonic()
        with pytest.warns(UserWarning, match="the hub cannot be reached"):
            assert used(from_hub(folder)) == DEFAULT
        # Minutes, were the request repeated as the hub's own functions do.
        assert time.monotonic() - began < 30
    shipped._on_hub.cache_clear()


def test_the_hub_is_not_asked_for_models_of_folders(folder, hub):
    model = load(folder)
    assert used(model) == DEFAULT
    model.config._name_or_path = "deleted/since"
    assert used(model) == DEFAULT
    assert hub.calls == []


def test_offline_the_cache_of_the_hub_is_read(folder, tmp_path, monkeypatch):
    """The real lookup, on a cache laid out as the hub's client does."""

    snapshot = tmp_path / "hub" / "models--someone--model" / "snapshots" / "0123abcd"
    METHOD.save_pretrained(snapshot)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    shipped._on_hub.cache_clear()
    assert used(from_hub(folder)) == METHOD
    shipped._on_hub.cache_clear()
    (snapshot / "illava_config.json").unlink()
    assert used(from_hub(folder)) == DEFAULT
    shipped._on_hub.cache_clear()


def test_the_file_is_what_the_method_wrote(folder):
    path = METHOD.save_pretrained(folder)
    assert json.loads(path.read_text()) == {"method": "fastv", "version": 2, "layer": 2, "keep": 0.5}


def test_a_method_that_does_not_fit_the_model_is_named_with_its_file(folder):
    illava.FastV(layer=99, keep=0.5).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"illava_config\.json: layer: must lie in"):
        illava.accelerate(load(folder))


def test_a_link_that_leads_nowhere_is_an_error(folder):
    (folder / "illava_config.json").symlink_to(folder / "nothing")
    with pytest.raises(ValueError, match="cannot read"):
        illava.accelerate(load(folder))
