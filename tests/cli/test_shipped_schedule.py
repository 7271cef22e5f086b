"""``illava ask``, ``look`` and ``info`` with and without an ``illava_config.json`` beside the weights."""

from __future__ import annotations

import json

import pytest

import illava
from illava.cli.console import DEFAULT_KEEP, parse_keep
from illava.methods.presets import DEFAULT_KEEP as SHARE

from .conftest import invoke

SMALL = ("--max-new-tokens", "2")


def test_the_help_names_the_default_budget():
    assert parse_keep(DEFAULT_KEEP) == SHARE
    assert DEFAULT_KEEP in invoke("ask", "--help").stdout


def asked(folder, *options):
    result = invoke("ask", "demo/word.png", "What?", "--model", folder, "--json", *SMALL, *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_without_a_file_the_preset_is_used(folder):
    found = asked(folder)
    assert found["method"] == illava.Illava.best(1 / 3).to_dict()
    assert found["method_file"] is None
    assert asked(folder, "--method", "illava")["method"] == illava.Illava().to_dict()


def test_a_file_beside_the_weights_is_used_and_named(copy, tmp_path):
    method = illava.Illava(keep=0.5)
    path = method.save_pretrained(copy)
    found = asked(copy)
    assert (found["method"], found["method_file"]) == (method.to_dict(), str(path))
    assert asked(copy, "--keep", "1/3")["method"] == illava.Illava.best(1 / 3).to_dict()
    told = invoke("ask", "demo/word.png", "What?", "--model", copy, *SMALL)
    assert "Method: illava, from" in told.stdout
    told = invoke("look", "demo/word.png", "--model", copy, "--output", tmp_path / "o", *SMALL)
    assert "Method: illava, from" in told.stdout
    said = "".join(invoke("info", copy).stdout.split())
    assert "illava(keep=0.5),from" in said


@pytest.mark.parametrize("command", ["ask", "look", "info"])
def test_a_broken_file_is_one_line(copy, tmp_path, command):
    (copy / "illava_config.json").write_text("{broken")
    words = {
        "ask": ("demo/word.png", "What?", "--model", copy),
        "look": ("demo/word.png", "--model", copy, "--output", tmp_path / "o"),
        "info": (copy,),
    }[command]
    result = invoke(command, *words)
    assert result.exit_code == 2
    assert "illava_config.json" in result.stderr
    assert result.stderr.count("\n") == 1
