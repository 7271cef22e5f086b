"""``illava.verify`` and the checks behind it: they hold where all is well, and each names a fault put in."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import illava
from illava.api import Handle
from illava.doctor.checks import PLAIN
from illava.methods.illava import Illava as Method
from illava.models.located import locate
from illava.models.tiny_models import ALL, tiny_model
from illava.models.tiny_prompts import pictures, prompt
from illava.runtime.cache.merged import MergedLayer
from illava.runtime.llm.prompt import PromptReader

BOTH = illava.Illava(encoder_layers=(1, 3), encoder_keep=0.7, llm_layers=(2, 4), llm_keep=0.7)
CHECKS = [PLAIN, "keep=1 is the plain model", "merging", "cached = recomputed", "batch = single"]
CHECKS += ["merging all to itself", "undo"]


def failed(model: nn.Module, method: illava.Method = BOTH) -> set[str]:
    return {check.name for check in illava.verify(model, method=method).faults}


def untouched(model: nn.Module) -> dict[str, object]:
    """All that a caller could see of a model: modes, attributes, hooks and weights."""
    return {
        name: (
            module.training,
            {key: id(value) for key, value in vars(module).items() if not key.endswith("_hooks")},
            [len(hooks) for key, hooks in vars(module).items() if key.endswith("_hooks") and hooks],
            [parameter.sum().item() for parameter in module.parameters(recurse=False)],
            [parameter.grad is None for parameter in module.parameters(recurse=False)],
        )
        for name, module in model.named_modules()
    }


# -- verify -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_variant_works(name):
    model = tiny_model(name)
    method = dataclasses.replace(BOTH, llm_layers=() if name.startswith("qwen3_5") else (2, 4))
    if not locate(model).blocks:
        method = dataclasses.replace(method, encoder_layers=())
    found = illava.verify(model, method=method)
    assert found.ok, str(found)
    assert [check.name for check in found.checks if check.name != "contract"] == CHECKS
    assert found.verdict == "works here"
    # Something was dropped, or the checks say nothing.
    left, _, shown = next(check.detail.split()[:3] for check in found.checks if check.name == "merging")
    assert int(left) < int(shown)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, pytest.param(torch.float64, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", ["qwen2_vl", "llava_onevision", "gemma3"])
def test_other_dtypes_work(name, dtype):
    found = illava.verify(tiny_model(name).to(dtype), method=BOTH)
    assert found.ok, str(found)
    assert found.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("name", ["zoo/S", "zoo/L"])
def test_shipped_models_work(name):
    from illava.ask import load

    model, _ = load(name)
    found = illava.verify(model)
    assert found.ok, str(found)
    assert found.method == illava.Illava.best(1 / 3).to_dict()


def test_the_model_is_left_as_it_was():
    model = tiny_model("qwen2_vl").train()
    model.model.visual.eval()
    model.model.rope_deltas = offset = torch.tensor([[7]])
    before, state = untouched(model), torch.random.get_rng_state()
    assert illava.verify(model).ok
    assert untouched(model) == before
    assert model.model.rope_deltas is offset
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("error", [KeyError("inside"), KeyboardInterrupt()])
def test_the_model_is_left_as_it_was_also_when_a_check_raises(monkeypatch, error):
    model = tiny_model("llava").train()
    with torch.no_grad():
        # transformers adds hooks of its own in the first pass.
        model(**prompt(model, [([5, 6], pictures(model, 1))]))
    before = untouched(model)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(MergedLayer, "update", fail)
        if isinstance(error, KeyError):
            found = illava.verify(model, method=BOTH)
            assert [check.name for check in found.faults] == ["merging", "merging all to itself"]
            assert "KeyError: 'inside'" in found.verdict
        else:
            with pytest.raises(KeyboardInterrupt):
                illava.verify(model, method=BOTH)
    assert untouched(model) == before
    assert illava.verify(model, method=BOTH).ok


def test_lora_works():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_model("qwen2_vl"), peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    assert illava.verify(model, method=BOTH).ok


def test_the_global_defaults_of_generate_do_not_matter():
    model = tiny_model("qwen2_vl")
    model.generation_config.eos_token_id = list(range(100))
    model.generation_config.num_beams = 3
    assert illava.verify(model, method=BOTH).ok


def test_what_cannot_be_verified_is_refused():
    with illava.accelerate(tiny_model("llava")) as handle, pytest.raises(ValueError, match="call remove"):
        illava.verify(handle.model)
    with pytest.raises(illava.UnsupportedError, match="got Linear; supported are "):
        illava.verify(nn.Linear(2, 2))
    with pytest.raises(illava.UnsupportedError, match="AutoModelForImageTextToText"):
        illava.verify(tiny_model("qwen2_vl").model)
    with pytest.raises(ValueError, match="layers 0 to 4"):
        illava.verify(tiny_model("llava"), method=illava.Illava(encoder_layers=(9,), encoder_keep=0.5))


def test_a_method_that_drops_nothing_is_named():
    found = illava.verify(tiny_model("llava"), method=illava.Illava(keep=1.0))
    assert found.ok
    assert "72 of 72 visual tokens left: the method has no steps" in str(found)
    nearly = illava.Illava(encoder_layers=(1,), encoder_keep=0.99, llm_layers=())
    assert failed(tiny_model("llava"), nearly) == {"merging"}


def test_a_verification_reads_well_and_is_json_ready():
    import json

    found = illava.verify(tiny_model("llava"), method=BOTH)
    lines = str(found).splitlines()
    assert lines[0].startswith("llava with transformers 5.")
    assert lines[-1] == "works here"
    assert len(lines) == len(found.checks) + 2
    values = json.loads(json.dumps(found.to_dict()))
    assert values["ok"] is True
    assert [check["name"] for check in values["checks"]] == [check.name for check in found.checks]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.dtype = "float16"


# -- faults that are put in -------------------------------------------------------------------------------


def test_a_keep_of_one_that_merges_is_named(monkeypatch):
    plan = Method.plan
    monkeypatch.setattr(
        Method, "plan", lambda self, modules: plan(BOTH if self.keep == 1.0 else self, modules)
    )
    assert failed(tiny_model("llava")) == {"keep=1 is the plain model"}


def test_a_cache_that_miscounts_is_named(monkeypatch):
    """Positions of decoded tokens come from it."""
    length = MergedLayer.get_seq_length
    monkeypatch.setattr(MergedLayer, "get_seq_length", lambda self: max(0, length(self) - 3))
    found = failed(tiny_model("llava"))
    # By the checks that run with every prefill, or by these.
    assert found
    assert found <= set(CHECKS[2:6])


def test_a_cache_that_gives_other_values_is_named(monkeypatch):
    """While decoding, so that the prefill is right."""
    update = MergedLayer.update

    def halve(self, keys, values, *args, **kwargs):
        found = update(self, keys, values, *args, **kwargs)
        return tuple(t * (1 if keys.shape[2] > 1 else 0.5) for t in found)

    monkeypatch.setattr(MergedLayer, "update", halve)
    assert "cached = recomputed" in failed(tiny_model("qwen2_vl"))


def test_rows_that_depend_on_each_other_are_named(monkeypatch):
    """The wrong token scores the pictures, but only in batches."""
    last = PromptReader._last

    def wrong(self, *args):
        found = last(self, *args)
        return found if len(found) == 1 else found - 2

    monkeypatch.setattr(PromptReader, "_last", wrong)
    assert failed(tiny_model("llava")) == {"batch = single"}


def test_hooks_left_behind_are_named(monkeypatch):
    remove = Handle.remove

    def forgetful(self):
        remove(self)
        self.modules.layers[1].register_forward_hook(lambda *_: None)

    monkeypatch.setattr(Handle, "remove", forgetful)
    found = illava.verify(tiny_model("llava"), method=BOTH)
    assert [check.name for check in found.faults] == ["undo"]
    assert "model.language_model.layers.1._forward_hooks" in found.verdict


def test_weights_that_changed_are_named(monkeypatch):
    remove = Handle.remove

    def spoil(self):
        remove(self)
        if self.method == BOTH:
            self.modules.layers[4].input_layernorm.weight.data.mul_(1.01)

    monkeypatch.setattr(Handle, "remove", spoil)
    assert "undo" in failed(tiny_model("llava"))


def test_a_report_that_miscounts_is_named(monkeypatch):
    report = Handle.report.fget
    wrong = property(lambda self: dataclasses.replace(report(self), visual_tokens=71))
    monkeypatch.setattr(Handle, "report", wrong)
    found = illava.verify(tiny_model("llava"), method=BOTH)
    assert "the report counts 71 visual tokens, the prompt has 72" in found.verdict


def test_a_nan_is_never_close(monkeypatch):
    update = MergedLayer.update

    def spoil(self, keys, values, *args, **kwargs):
        keys, values = update(self, keys, values, *args, **kwargs)
        return keys, values * (float("nan") if values.shape[0] == 1 else 1)

    monkeypatch.setattr(MergedLayer, "update", spoil)
    assert failed(tiny_model("llava")) == {"batch = single"}
