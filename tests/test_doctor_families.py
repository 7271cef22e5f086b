"""illava doctor on families, configs and machines; its checks of one model are in test_doctor."""

from __future__ import annotations

import pytest
import torch

import illava
from illava.doctor import verification
from illava.doctor.family import describe, examine
from illava.doctor.machine import gflops, look, within
from illava.models.located import locate
from illava.models.tiny_models import BROKEN, CONFIGS, config, tiny_model, variant
from illava.models.tiny_prompts import pictures, prompt
from illava.runtime.cache.merged import MergedLayer
from tests.test_doctor import BOTH


def test_what_transformers_breaks_itself_is_not_illavas_fault():
    model = tiny_model("llava")
    model.model.language_model.layers[0].register_forward_pre_hook(lambda *_: 1 / 0)
    found = illava.verify(model, method=BOTH)
    assert not found.ok
    assert not found.plain_runs
    assert "the plain llava does not run, on transformers" in found.verdict
    assert "ZeroDivisionError: division by zero" in found.verdict


def test_a_fault_of_the_contract_is_named(monkeypatch):
    lost = "DynamicLayer.update lost its argument"
    monkeypatch.setattr(verification, "contract_faults", lambda modules: [lost])
    found = illava.verify(tiny_model("llava"), method=BOTH)
    assert [check.name for check in found.faults] == ["contract"]
    assert found.verdict == f"fault: contract: {lost}"


# -- families, folders, machine ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", illava.supported_families())
def test_every_family_has_a_tiny_model(family):
    assert config(family).model_type == family
    assert variant(config(family)) == family


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("llava-full", "llava-windows")])
def test_the_variant_most_like_a_model_is_chosen(name):
    assert variant(config(name)) == name


@pytest.mark.skipif("vipllava" not in BROKEN, reason="this transformers runs it")
def test_a_family_that_does_not_run_is_named():
    found = examine("vipllava")
    assert (found.ok, found.transformers_fault) == (False, True)
    assert "the plain vipllava does not run" in found.verdict


def test_a_config_class_that_is_gone_is_a_fault(monkeypatch):
    def gone():
        raise AttributeError("module transformers has no attribute LlavaConfig")

    monkeypatch.setitem(CONFIGS, "llava", gone)
    found = examine("llava")
    assert (found.ok, found.transformers_fault) == (False, False)
    assert "no attribute LlavaConfig" in found.verdict


def test_warnings_of_the_libraries_are_shown(monkeypatch):
    import warnings

    update = MergedLayer.update

    def warn(self, *args, **kwargs):
        warnings.warn("an argument was renamed", FutureWarning, stacklevel=1)
        return update(self, *args, **kwargs)

    monkeypatch.setattr(MergedLayer, "update", warn)
    assert "FutureWarning: an argument was renamed" in examine("llava").warnings


def test_a_folder_is_described_by_its_config_alone(tmp_path):
    config("llava-siglip").save_pretrained(tmp_path)
    found = describe(str(tmp_path))
    assert (found.family, found.vision_tower, found.tiny) == ("llava", "siglip_vision_model", "llava-siglip")
    assert found.fault is None


def test_inputs_fit_published_token_ids_and_sizes():
    """No word is a placeholder, and tiles are as large as the encoder wants them."""
    made = config("llava_onevision")
    made.image_token_id, made.vision_config.image_size = 6, 48
    made.image_grid_pinpoints = [[48, 96], [96, 48]]
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_config(made).eval()
    inputs = prompt(model, [([20, 21], pictures(model, 1))])
    assert inputs["pixel_values"].shape[-2:] == (48, 48)
    found = illava.verify(model, method=BOTH)
    assert found.plain_runs, str(found)
    assert found.ok, str(found)


def test_machine():
    import transformers

    seen = look(("5.19", "5.24"))
    assert seen.versions["transformers"] == transformers.__version__
    assert seen.attention["sdpa"]
    assert seen.speed["float32"] > 0
    assert gflops(torch.bool, "cpu") is None


@pytest.mark.parametrize(
    ("release", "inside"),
    [
        ("5.18.9", False),
        ("5.19.0", True),
        ("5.9.0", False),
        ("5.24.3", True),
        ("5.25.0", False),
        ("6.0.0", False),
        ("5.24.0.dev0", True),
    ],
)
def test_tested_range(release, inside):
    assert within(release, ("5.19", "5.24")) is inside


@pytest.mark.parametrize("name", ["qwen2_vl", "llava", "internvl"])
def test_a_block_that_ends_otherwise_is_found(name):
    """Its signature is the same, and merged runs agree with each other."""
    model = tiny_model(name)
    block = locate(model).blocks[1]
    forward = block.forward

    def halved(hidden_states, *args, **kwargs):
        out = forward(hidden_states, *args, **kwargs)
        return (hidden_states + 0.5 * (out[0] - hidden_states),) if isinstance(out, tuple) else 0.5 * out

    assert illava.verify(model, method=BOTH).ok
    block.forward = halved
    found = illava.verify(model, method=BOTH)
    assert [check.name for check in found.faults] == ["merging all to itself"]
