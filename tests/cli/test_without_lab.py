"""Without illava-lab: every command that needs its models or tasks says in one line what to install."""

from __future__ import annotations

import pytest

from illava import plugins

from .conftest import assert_error, invoke

INSTALL = "pip install illava-lab"
NEEDS_LAB = {
    "eval": ["eval", "--output", "x"],
    "eval by name": ["eval", "--output", "x", "--tasks", "counting"],
    "compare": ["compare", "--output", "x"],
    "image": ["ask", "demo/word.png", "What?", "--model", "some/model"],
    "ask": ["ask", "demo/word.png", "What does it read?"],
    "look": ["look", "demo/word.png", "--output", "x"],
    "demo": ["demo"],
    "demo of a model": ["demo", "--model", "zoo/S", "--port", "7999"],
    "info": ["info", "zoo/L"],
    "doctor": ["doctor", "zoo/L"],
    "bench": ["bench", "zoo/L", "--output", "x"],
    "plan": ["plan", "zoo/L", "--keep", "1/9"],
}


@pytest.fixture(autouse=True)
def without_lab(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    plugins._registered.cache_clear()
    yield
    plugins._registered.cache_clear()


@pytest.mark.parametrize("words", NEEDS_LAB.values(), ids=NEEDS_LAB)
def test_says_what_to_install(words, tmp_path):
    if words[0] == "demo":
        pytest.importorskip("gradio")
    assert_error(invoke(*words), INSTALL)


@pytest.mark.parametrize("command", ["bench", "plan"])
def test_a_command_without_a_model_does_not_mention_the_lab(command):
    assert_error(invoke(command), "give either MODEL or --shape NAME")


def test_info_lists_families_and_what_to_install():
    result = invoke("info")
    assert result.exit_code == 0, result.output
    assert "qwen2_vl" in result.stdout
    assert INSTALL in result.stdout
    assert "demo/word.png" not in result.stdout


def test_doctor_checks_a_family():
    result = invoke("doctor", "qwen2_vl")
    assert result.exit_code == 0, result.output
    assert "works here" in result.stdout
