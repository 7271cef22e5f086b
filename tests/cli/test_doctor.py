"""``illava doctor``: what it prints, its exit codes, and that a fault put in is named."""

from __future__ import annotations

import json

import pytest
import transformers

import illava
from illava.runtime import contract
from illava.runtime.cache.merged import MergedLayer
from tests.tiny import config

from .conftest import assert_error, call, invoke


def found_by(*words):
    """The exit code and the object printed with --json."""
    result = invoke("doctor", *words, "--json")
    assert result.stdout.count("\n") == 1
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def halved(monkeypatch):
    """Decoding finds half of what the prefill stored."""
    update = MergedLayer.update

    def halve(self, keys, values, *args, **kwargs):
        found = update(self, keys, values, *args, **kwargs)
        return tuple(t * (1 if keys.shape[2] > 1 else 0.5) for t in found)

    monkeypatch.setattr(MergedLayer, "update", halve)


def test_the_machine_alone():
    result = invoke("doctor")
    assert result.exit_code == 0
    for text in (
        f"transformers  {transformers.__version__}",
        "torch",
        "cpu: ",
        "sdpa, eager",
        "bfloat16",
        "contract",
    ):
        assert text in result.stdout
    assert result.stdout.endswith("\n\nworks here\n")
    assert "Tiny" not in result.stdout


def test_a_family_that_works():
    result = invoke("doctor", "qwen2_vl")
    assert result.exit_code == 0
    assert "ok    cached = recomputed: deviation" in result.stdout
    assert "FAULT" not in result.stdout
    assert result.stdout.endswith("\n\nworks here\n")


def test_json_is_one_object():
    code, found = found_by("llava")
    assert code == 0
    assert (found["ok"], found["verdict"], found["faults"]) == (True, "works here", [])
    assert set(found) == {"ok", "verdict", "faults", "machine", "contract", "model", "families"}
    assert found["machine"]["versions"]["transformers"] == transformers.__version__
    assert found["families"]["llava"]["verification"]["ok"]


def test_a_fault_is_named(halved):
    result = invoke("doctor", "llava")
    assert result.exit_code == 1
    assert "FAULT cached = recomputed" in result.stdout
    assert "fault: cached = recomputed: deviation" in result.stdout.splitlines()[-1]
    code, found = found_by("llava")
    assert (code, found["ok"]) == (1, False)
    assert found["faults"][0].startswith("cached = recomputed")


def test_a_fault_of_the_contract_is_named(monkeypatch):
    monkeypatch.setattr(contract, "missing_everywhere", lambda: ["DynamicLayer lost its method update"])
    result = invoke("doctor")
    assert result.exit_code == 1
    assert result.stdout.endswith("\nfault: contract: DynamicLayer lost its method update\n")


def test_a_contract_that_cannot_be_checked_is_named(monkeypatch):
    monkeypatch.setattr(contract, "missing_everywhere", lambda: 1 / 0)
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "the contract cannot be checked: ZeroDivisionError" in result.stdout


@pytest.mark.parametrize(
    ("before", "fault"),
    [
        # As where a new transformers has moved a module, or dropped a class.
        pytest.param(
            "import sys; sys.modules['transformers.vision_utils'] = None",
            "vision_utils lost its function",
            marks=pytest.mark.slow,
        ),
        ("import transformers.cache_utils as caches; del caches.StaticLayer", "StaticLayer"),
    ],
)
def test_an_import_that_fails_is_named(before, fault):
    """The machine is described all the same."""
    result = call("doctor", "llava", before=before)
    assert result.returncode == 1, result.stderr
    assert "transformers  5." in result.stdout
    faults = [line for line in result.stdout.splitlines() if line.startswith("fault: contract: ")]
    assert any(fault in line for line in faults), result.stdout
    assert ("illava cannot be imported: UnsupportedError: transformers 5." in result.stdout) == (
        fault == "StaticLayer"
    )


def test_all_families(monkeypatch):
    from illava.doctor import family

    names = ("llava", "qwen3_vl", "gemma3")
    monkeypatch.setattr(family, "families", lambda: names)
    result = invoke("doctor", "--all")
    assert result.exit_code == 0
    for name in names:
        assert f"{name:18}works here\n" in result.stdout
    assert result.stdout.endswith("works here: 3 of 3 families\n")


def test_all_names_each_family_at_fault(monkeypatch, halved):
    from illava.doctor import family

    monkeypatch.setattr(family, "families", lambda: ("llava", "qwen2_vl"))
    code, found = found_by("--all")
    assert code == 1
    assert [fault.split(":")[0] for fault in found["faults"]] == ["llava", "qwen2_vl"]


def test_a_family_that_transformers_breaks_is_not_counted(monkeypatch):
    from transformers.models.vipllava.modeling_vipllava import VipLlavaMultiModalProjector

    from illava.doctor import family

    make = VipLlavaMultiModalProjector.__init__

    def broken(*_):
        raise IndexError("tuple index out of range")

    def make_broken(self, config):
        make(self, config)
        self.register_forward_hook(broken)

    monkeypatch.setattr(VipLlavaMultiModalProjector, "__init__", make_broken)
    monkeypatch.setattr(family, "families", lambda: ("llava", "vipllava"))
    line = f"the plain vipllava does not run, on transformers {transformers.__version__}: IndexError"
    result = invoke("doctor", "--all")
    assert result.exit_code == 0
    assert line in result.stdout
    assert result.stdout.endswith("works here: 1 of 2 families; transformers itself does not run vipllava\n")
    # Asked for alone, it does not work here.
    result = invoke("doctor", "vipllava")
    assert result.exit_code == 1
    assert line in result.stdout.splitlines()[-1]
    # Where nothing runs, something else is wrong.
    monkeypatch.setattr(family, "families", lambda: ("vipllava",))
    assert invoke("doctor", "--all").exit_code == 1


def test_a_folder_without_weights(tmp_path):
    config("llava-pixtral").save_pretrained(tmp_path)
    result = invoke("doctor", tmp_path)
    assert result.exit_code == 0
    assert "llava, vision tower pixtral, attention sdpa" in result.stdout
    assert "Tiny random llava-pixtral:" in result.stdout


def test_a_folder_with_an_unsupported_vision_tower(tmp_path):
    values = config("llava_onevision").to_dict()
    values["vision_config"] = {"model_type": "pixtral", "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(values))
    code, found = found_by(tmp_path)
    assert code == 1
    assert "llava_onevision with a vision tower of type 'pixtral' is not supported" in found["verdict"]
    assert found["families"] == {}


@pytest.mark.parametrize("family", ["mllama", "gpt2"])
def test_a_folder_of_an_unsupported_family(tmp_path, family):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    result = invoke("doctor", tmp_path)
    assert result.exit_code == 1
    assert f"model type '{family}' is not supported" in result.stdout.splitlines()[-1]


def test_remote_code_is_not_run(tmp_path):
    values = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "own.py").write_text("raise SystemExit('remote code was run')")
    assert_error(invoke("doctor", tmp_path), "its config cannot be read")


def test_usage_errors(tmp_path):
    assert_error(
        invoke("doctor", "qwen9_vl"),
        "'qwen9_vl' is neither a folder nor a supported family; did you mean qwen",
        "qwen2_vl",
    )
    assert_error(invoke("doctor", "mllama"), "uses cross-attention", *illava.supported_families())
    assert_error(invoke("doctor", "llava", "--all"), "give either llava or --all")
    assert_error(invoke("doctor", tmp_path), "has no config.json")


def test_it_is_listed_and_its_help_is_quick():
    assert "doctor" in invoke("--help").stdout
    before = """
from typer.testing import CliRunner
import illava.cli
CliRunner().invoke(illava.cli.app, ["doctor", "--help"])
print({"torch", "transformers"} & set(sys.modules) or "quick")
"""
    assert call("--version", before=before).stdout.startswith("quick")
