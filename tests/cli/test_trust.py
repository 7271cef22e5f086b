"""No command runs code that comes with a model or unpickles weights, unless --trust-remote-code is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import dynamic_module_utils

from illava.cli.app import app
from illava.io.pictures import InputError
from illava.models.loading import load, pixel_limits, read_config

from .conftest import assert_error, invoke

FLAG = "--trust-remote-code"
CODE = """
from pathlib import Path
Path({marker!r}).write_text("it ran")
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers import Qwen2VLImageProcessor, Qwen2TokenizerFast

class Config(Qwen2VLConfig): pass
class Model(Qwen2VLForConditionalGeneration): config_class = Config
class Processor(Qwen2VLProcessor): pass
class Images(Qwen2VLImageProcessor): pass
class Tokenizer(Qwen2TokenizerFast): pass
"""
COMMANDS = {
    "ask": ("ask", "demo/word.png", "What?", "--max-new-tokens", 1, "--model"),
    "look": ("look", "demo/word.png", "--output", "{out}", "--max-new-tokens", 1, "--model"),
    "eval": ("eval", "--tasks", "{data}", "--keep", "1", "--time", 0, "--output", "{out}", "--model"),
    "compare": (
        *("compare", "--tasks", "{data}", "--keep", "1/3", "--time", 0, "--output", "{out}"),
        *("--method", "fastv", "--reference", "fastv", "--model"),
    ),
    "plan": ("plan", "--keep", "1/3", "--size", "64"),
    "bench": (
        *("bench", "--size", "64", "--batch", "1", "--keep", "1/3", "--rounds", 1, "--new-tokens", 1),
        *("--output", "{out}"),
    ),
    "info": ("info",),
}


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Path:
    # Modules of models are copied there before they are imported.
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    return tmp_path / "marker"


@pytest.fixture
def hostile(copy, marker) -> Path:
    """A model with code in a file beside it, which nothing names yet."""
    (copy / "own.py").write_text(CODE.format(marker=str(marker)))
    return copy


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def run(command: str, model: Path, tmp_path: Path, *more: str):
    data = tmp_path / "data"
    if not data.exists():
        data.mkdir()
        row = {"picture": "a.png", "question": "What?", "answer": "x"}
        (data / "samples.jsonl").write_text(json.dumps(row))
        from PIL import Image

        Image.new("RGB", (64, 64)).save(data / "a.png")
    words = [str(word).format(out=tmp_path / "out", data=data) for word in COMMANDS[command]]
    return invoke(*words, model, *more)


def test_every_command_that_loads_a_model_has_the_flag():
    names = {info.name or info.callback.__name__ for info in app.registered_commands}
    assert {*COMMANDS, "demo", "serve"} <= names
    for name in (*COMMANDS, "demo", "serve"):
        assert FLAG in invoke(name, "--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_config_with_code(hostile, marker, tmp_path, command):
    change(hostile / "config.json", model_type="made_up", auto_map={"AutoConfig": "own.Config"})
    assert_error(run(command, hostile, tmp_path), "its config cannot be read: it needs code", f"add {FLAG}")
    assert not marker.exists()


def test_with_the_flag_it_runs(hostile, marker, tmp_path):
    change(hostile / "config.json", auto_map={"AutoConfig": "own.Config"}, model_type="made_up")
    run("info", hostile, tmp_path, FLAG)
    assert marker.read_text() == "it ran"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_a_known_kind_is_read_by_transformers_own_code(hostile, marker, tmp_path, command, name):
    """Custom classes beside a family that transformers has: its own classes take their place."""
    names = {
        "AutoConfig": "own.Config",
        "AutoModelForImageTextToText": "own.Model",
        "AutoProcessor": "own.Processor",
        "AutoImageProcessor": "own.Images",
        "AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"],
    }
    change(hostile / name, auto_map=names)
    result = run(command, hostile, tmp_path)
    assert result.exit_code == 0, result.output
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "fields", "kind"),
    [
        ("processor_config.json", {"processor_class": "Own"}, "AutoProcessor"),
        ("tokenizer_config.json", {"tokenizer_class": "Own"}, "AutoTokenizer"),
    ],
)
def test_a_processor_with_code(hostile, marker, tmp_path, name, fields, kind):
    own = {"AutoProcessor": "own.Processor", "AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}
    change(hostile / name, **fields, auto_map={kind: own[kind]})
    if kind == "AutoProcessor":
        change(hostile / "tokenizer_config.json", processor_class="Own")
    result = run("ask", hostile, tmp_path)
    assert not marker.exists()
    # Some of these transformers can do without.
    assert result.exit_code == 0 or FLAG in result.stderr


def test_an_image_processor_with_code(hostile, marker):
    settings = json.loads((hostile / "processor_config.json").read_text())["image_processor"]
    own = {"AutoImageProcessor": "own.Images"}
    settings = {**settings, "image_processor_type": "Own", "auto_map": own}
    (hostile / "processor_config.json").unlink()
    (hostile / "preprocessor_config.json").write_text(json.dumps(settings))
    for function in (pixel_limits, load):
        with pytest.raises(InputError, match=f"needs code that comes with the model.* add {FLAG}"):
            function(str(hostile))
    assert not marker.exists()
    pixel_limits(str(hostile), True)
    assert marker.exists()


def test_code_for_generate_is_left_alone(hostile, marker):
    (hostile / "custom_generate").mkdir()
    text = (hostile / "own.py").read_text() + "\ndef generate(model, **kwargs): return None\n"
    (hostile / "custom_generate" / "generate.py").write_text(text)
    load(str(hostile))
    assert not marker.exists()


def test_trust_is_never_left_open(copy, monkeypatch):
    """Every from_pretrained is told; None would ask on the terminal."""
    seen, real = [], dynamic_module_utils.resolve_trust_remote_code

    def spy(trust_remote_code, *args, **kwargs):
        seen.append(trust_remote_code)
        return real(trust_remote_code, *args, **kwargs)

    from transformers.models import auto

    for module in vars(auto).values():
        if hasattr(module, "resolve_trust_remote_code"):
            monkeypatch.setattr(module, "resolve_trust_remote_code", spy)
    load(str(copy))
    read_config(str(copy))
    pixel_limits(str(copy))
    assert seen
    assert set(seen) == {False}


# -- pickles ---------------------------------------------------------------------------------------


@pytest.fixture
def pickled(copy, monkeypatch) -> Path:
    """The same weights as pytorch_model.bin, and a torch.load that tells."""
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    return copy


@pytest.fixture
def unpickled(monkeypatch) -> list[str]:
    seen, real = [], torch.load

    def spy(file, *args, **kwargs):
        seen.append(Path(file).name)
        return real(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    return seen


@pytest.mark.parametrize("command", ["ask", "look", "eval", "compare", "bench"])
def test_pickled_weights(pickled, unpickled, tmp_path, command):
    said = "pytorch_model.bin is pickled, and pickles can run code", f"add {FLAG}"
    assert_error(run(command, pickled, tmp_path), "its weights cannot be loaded", *said)
    assert unpickled == []


def test_pickled_weights_that_are_trusted(folder, pickled, unpickled, tmp_path):
    trusted = run("ask", pickled, tmp_path, FLAG, "--json")
    assert trusted.exit_code == 0, trusted.output
    assert unpickled == ["pytorch_model.bin"]
    safe = run("ask", folder, tmp_path, "--json")
    assert json.loads(trusted.stdout)["answer"] == json.loads(safe.stdout)["answer"]


def test_safetensors_come_first_even_so(copy, unpickled):
    torch.save({}, copy / "pytorch_model.bin")
    load(str(copy), trust_remote_code=True)
    assert unpickled == []


def test_a_pickle_that_the_config_names(pickled, unpickled):
    change(pickled / "config.json", transformers_weights="pytorch_model.bin")
    with pytest.raises(InputError, match=f"pytorch_model.bin is pickled.*{FLAG}"):
        load(str(pickled))
    assert unpickled == []


def test_a_pickle_among_the_shards(pickled, unpickled):
    names = dict.fromkeys(torch.load(pickled / "pytorch_model.bin"), "pytorch_model.bin")
    unpickled.clear()
    index = {"metadata": {}, "weight_map": names}
    (pickled / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=f"pytorch_model.bin is pickled.*{FLAG}"):
        load(str(pickled))
    assert unpickled == []


def test_a_pickled_adapter(copy, unpickled):
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "."}')
    torch.save({}, copy / "adapter_model.bin")
    with pytest.raises(InputError, match=f"adapter_model.bin is pickled.*{FLAG}"):
        load(str(copy))
    assert unpickled == []
