"""What other distributions register: one that is broken stops nothing but itself."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from illava import plugins
from illava.cli.evaluate import make_tasks
from illava.errors import InputError
from illava.models.loading import resolve


@pytest.fixture
def registered(monkeypatch, tmp_path):
    """Two distributions: one whose module is missing, and one with a model."""
    good = SimpleNamespace(names=lambda: ["mine/a"], path=lambda name: tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "good_models", good)
    entries = [
        EntryPoint("broken", "no_such_module_xyz", plugins.MODELS),
        EntryPoint("mine", "good_models", plugins.MODELS),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: [e for e in entries if e.group == group])
    plugins._registered.cache_clear()
    yield
    plugins._registered.cache_clear()


def test_a_broken_one_is_named_and_left_out(registered, tmp_path):
    with pytest.warns(UserWarning, match=r"no_such_module_xyz: its entry 'broken' .* cannot be used") as said:
        assert plugins.model_names() == ["mine/a"]
    assert "\n" not in str(said[0].message)
    assert resolve("mine/a") == str(tmp_path)


@pytest.mark.filterwarnings("ignore:.*cannot be used")
def test_its_own_models_are_refused(registered):
    with pytest.raises(InputError, match="broken/x: what registers broken/ cannot be used"):
        resolve("broken/x")
    with pytest.raises(InputError, match="pip install illava-lab"):
        resolve("zoo/L")


def provider(*names, **more):
    return SimpleNamespace(names=lambda: list(names), path=lambda name: name, **more)


def test_a_provider_chooses_the_model_for_images(monkeypatch):
    def for_photographs(images):
        return "b/photo" if all(image.endswith(".jpg") for image in images) else None

    found = {
        "a": provider("a/silent"),
        "c": provider("c/late", default_for=lambda images: "c/late"),
        "b": provider("b/photo", default_for=for_photographs),
    }
    monkeypatch.setattr(plugins, "_registered", lambda group: found)
    assert plugins.default_model(["x.jpg", "y.jpg"]) == "b/photo"
    assert plugins.default_model(["x.jpg", "y.png"]) == "c/late"
    # Without images, such as for a video, no provider is asked.
    assert plugins.default_model([]) == plugins.default_model() == "zoo/L"
    del found["c"]
    assert plugins.default_model(["y.png"]) == "zoo/L"
    monkeypatch.setattr(plugins, "_registered", lambda group: {})
    assert plugins.default_model(["x.jpg"]) == "zoo/L"


def test_a_provider_shows_what_a_model_can_do(monkeypatch):
    shown = {"b/photo": ("mine/x.jpg", "What?")}
    found = {"a": provider("a/silent"), "b": provider("b/photo", example=shown.get)}
    monkeypatch.setattr(plugins, "_registered", lambda group: found)
    assert plugins.example("b/photo") == ("mine/x.jpg", "What?")
    for name in ("b/other", "a/silent", "someone/model", "folder"):
        assert plugins.example(name) is None


def test_tasks_on_request_are_used_by_name_only(monkeypatch):
    usual = SimpleNamespace(names=lambda: ["usual"], load=lambda name, **_: SimpleNamespace(name=name))
    asked = SimpleNamespace(names=lambda: ["asked"], load=usual.load, ON_REQUEST=True)
    monkeypatch.setattr(plugins, "_registered", lambda group: {"a": usual, "b": asked})
    assert set(plugins.tasks()) == {"usual", "asked"}
    assert [task.name for task in make_tasks([], "test", 0, 5, False)] == ["usual"]
    assert [task.name for task in make_tasks(["asked"], "test", 0, 5, False)] == ["asked"]
    monkeypatch.setattr(plugins, "_registered", lambda group: {"b": asked})
    with pytest.raises(InputError, match=r"give a folder with a samples\.jsonl"):
        make_tasks([], "test", 0, 5, False)


def test_names_of_the_hub_load_nothing(registered, recwarn):
    assert resolve("someone/model") == "someone/model"
    assert not recwarn.list
