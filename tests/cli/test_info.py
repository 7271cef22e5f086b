"""``illava info``, ``--version`` and how quickly the command line starts."""

from __future__ import annotations

import json

import pytest

import illava
from illava.cli.info import skeleton
from illava.models.coverage import coverage
from tests.tiny import FAMILIES, config, tiny_model

from .conftest import assert_error, call, invoke

BY_NAME = {one.model_type for one in coverage()}


def test_overview():
    result = invoke("info")
    assert result.exit_code == 0
    for text in (*illava.supported_families(), "zoo/S", "demo/word.png", "2412.06263", "12 13 14 15 of 32"):
        assert text in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_shipped_model():
    result = invoke("info", "zoo/S")
    assert result.exit_code == 0
    for text in ("qwen2_vl", "yes", "6 blocks", "6 layers", "43.9%", "33.3%"):
        assert text in result.stdout


def test_every_type():
    result = invoke("info", "--all")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80 or lines[-1].startswith("transformers")
    words = result.stdout.split()
    for one in coverage():
        assert one.model_type in words
    flat = " ".join(words)
    assert "mllama both no: it uses cross-attention" in flat
    assert f"{len(coverage())} model types" not in flat, "aliases are counted apart"


def test_every_type_as_json():
    found = json.loads(invoke("info", "--all", "--json").stdout)
    assert [one["model_type"] for one in found["model_types"]] == [one.model_type for one in coverage()]
    stages = ("image_encoder", "llm")
    yes = [
        one["model_type"]
        for one in found["model_types"]
        if any(one[stage]["state"] == "yes" for stage in stages)
    ]
    assert yes == [name for name in illava.supported_families() if name in BY_NAME]
    number = found["counts"]
    assert number["both"] + number["one"] == len(yes)
    assert number["types"] == sum(number[key] for key in ("both", "one", "open", "refused"))
    assert number["types"] + number["aliases"] == len(coverage())


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--json",), "--json is for --all"), (("zoo/S", "--all"), "give either zoo/S or --all")],
)
def test_options_that_do_not_go_together(words, message):
    assert_error(invoke("info", *words), message)


@pytest.mark.parametrize("family", FAMILIES)
def test_config_alone_is_enough(tmp_path, family):
    config(family).save_pretrained(tmp_path)
    result = invoke("info", tmp_path)
    assert result.exit_code == 0
    assert family in result.stdout
    assert "5 blocks" in result.stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_skeleton_plans_like_the_model(family):
    modules = skeleton(config(family))
    assert {p.device.type for p in modules.model.parameters()} == {"meta"}
    with illava.accelerate(tiny_model(family)) as handle:
        assert illava.Illava.best(1 / 3).plan(modules) == handle.plan


@pytest.mark.parametrize(
    ("family", "texts"),
    [
        ("mllama", ["uses cross-attention", "40 layers"]),
        ("gpt2", ["12 layers"]),
        ("chameleon", ["32 layers"]),
    ],
)
def test_unsupported_is_an_answer(tmp_path, family, texts):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    result = invoke("info", tmp_path)
    assert result.exit_code == 0
    flat = " ".join(result.stdout.split())
    for text in [family, "no: model type", *texts]:
        assert text in flat


def test_unsupported_tower_is_an_answer(tmp_path):
    values = config("llava_onevision").to_dict()
    values["vision_config"] = {"model_type": "pixtral", "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(values))
    result = invoke("info", tmp_path)
    assert result.exit_code == 0
    assert "no: " in result.stdout
    assert "pixtral" in result.stdout


def test_version():
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"illava {illava.__version__}\n")


def test_help_names_the_commands():
    result = invoke("--help")
    assert result.exit_code == 0
    assert "ask" in result.stdout
    assert "info" in result.stdout


def test_torch_is_not_imported_for_nothing():
    before = """
from typer.testing import CliRunner
import illava.cli
for words in (["--version"], ["--help"], ["ask", "--help"], ["ask", "no.png", "What?"]):
    CliRunner().invoke(illava.cli.app, words)
    print(*words, {"torch", "transformers"} & set(sys.modules) or "quick")
"""
    said = call("--version", before=before).stdout.splitlines()
    assert [line.rsplit(" ", 1)[1] for line in said[:-1]] == ["quick"] * 4
