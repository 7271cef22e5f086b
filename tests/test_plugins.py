"""What other distributions register: one that is broken stops nothing but itself."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from illava import plugins
from illava.cli.app import app
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


def failing(*_):
    raise RuntimeError("out of\norder")


def to_be_made(name):
    raise ValueError("it has not been made: run `make it`")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"default_for": failing}, "b: its choice of a model for x.jpg .*: RuntimeError: out of order$"),
        ({"default_for": lambda _: "someone/model"}, "would be someone/model, .*: b does not list it$"),
        ({"default_for": lambda _: 5}, "which cannot be used: TypeError: b must choose a name, not 5$"),
        ({"default_for": lambda _: "b/large", "path": to_be_made}, "b/large, .*: it has not .* `make it`$"),
    ],
    ids=["fails", "not listed", "no name", "not made"],
)
def test_a_choice_that_cannot_be_used_is_passed_over(monkeypatch, more, said):
    found = {"b": SimpleNamespace(**{**vars(provider("b/photo")), **more})}
    monkeypatch.setattr(plugins, "_registered", lambda group: found)
    with pytest.warns(UserWarning, match=said) as warned:
        assert plugins.default_model(["x.jpg"]) == "zoo/L"
    assert [str(one.message).count("\n") for one in warned] == [0]
    found["c"] = provider("c/late", default_for=lambda images: "c/late")
    with pytest.warns(UserWarning, match=said):
        assert plugins.default_model(["x.jpg"]) == "c/late"


def test_a_provider_shows_what_a_model_can_do(monkeypatch, tmp_path, recwarn):
    (tmp_path / "x.jpg").write_bytes(b"a photograph")
    shown = {"b/photo": ("mine/x.jpg", "What?"), "b/file": (str(tmp_path / "x.jpg"), "And here?")}
    models = {"a": provider("a/silent"), "b": provider("b/photo", example=shown.get)}
    images = {"mine": SimpleNamespace(path=lambda name: tmp_path / name.removeprefix("mine/"))}
    monkeypatch.setattr(plugins, "_registered", {plugins.MODELS: models, plugins.IMAGES: images}.get)
    assert plugins.example("b/photo") == (tmp_path / "x.jpg", "What?")
    assert plugins.example("b/file") == (tmp_path / "x.jpg", "And here?")
    for name in ("b/other", "a/silent", "someone/model", "folder"):
        assert plugins.example(name) is None
    assert not recwarn.list


@pytest.mark.parametrize(
    "example",
    [
        failing,
        lambda _: "x.jpg",
        lambda _: (5, "?"),
        lambda _: ("no.jpg", "?"),
        lambda _: ("mine/no.jpg", "?"),
    ],
    ids=["fails", "no pair", "no name", "no file", "no image"],
)
def test_an_example_that_cannot_be_used_is_left_out(monkeypatch, example):
    models = {"b": provider("b/photo", example=example)}
    images = {"mine": SimpleNamespace(path=to_be_made)}
    monkeypatch.setattr(plugins, "_registered", {plugins.MODELS: models, plugins.IMAGES: images}.get)
    with pytest.warns(UserWarning, match="b: its example for b/photo cannot be used: ") as warned:
        assert plugins.example("b/photo") is None
    assert [str(one.message).count("\n") for one in warned] == [0]


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


@pytest.mark.parametrize("command", ["eval", "compare"])
def test_help_says_that_some_tasks_must_be_named(command):
    said = " ".join(CliRunner().invoke(app, [command, "--help"]).stdout.replace("│", " ").split())
    assert "all tasks but those that must be named" in said


def test_names_of_the_hub_load_nothing(registered, recwarn):
    assert resolve("someone/model") == "someone/model"
    assert not recwarn.list
