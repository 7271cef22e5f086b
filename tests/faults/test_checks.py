"""Sabotage of what a merged prefill relies on: an error at that prefill, never a wrong answer."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

import illava
from illava.compat import cache_name, with_cache
from illava.models.families import family_of
from illava.models.located import locate
from illava.runtime.cache import merged as caches
from tests.battery.test_battery import method_of
from tests.test_exact import BOTH, ENCODER, single
from tests.tiny import ALL, RESAMPLED, pictures, prompt, tiny_model

MESSAGE = r"expected .*, found .* on transformers \d"


def llm_of(model):
    return model.model.get_submodule(family_of(model.config).llm)


def wrong(model, method=BOTH, **options):
    inputs = single(model)
    with illava.accelerate(model, method), torch.no_grad(), pytest.raises(RuntimeError, match=MESSAGE):
        model(**inputs, **options)


@pytest.mark.parametrize("name", [name for name in ALL if name not in RESAMPLED])
def test_marks_that_were_written_over(name):
    """As a new step of a model between projector and language model might."""
    model = tiny_model(name)

    def clean(*args, **kwargs):
        output = encode(*args, **kwargs)
        rows = output.pooler_output
        clean = [row.nan_to_num(0.0) for row in rows]
        output.pooler_output = torch.stack(clean) if isinstance(rows, torch.Tensor) else clean
        return output

    inputs = single(model)
    with illava.accelerate(model, method_of(name)), torch.no_grad():
        encode = model.model.get_image_features
        model.model.__dict__["get_image_features"] = clean
        with pytest.raises(RuntimeError, match="dropped tokens that reached the language model: " + MESSAGE):
            model(**inputs)


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("qwen3_5")])
def test_a_cache_that_is_ignored(name):
    """What 5.24 did when it was handed a cache under its old name beside the new one."""
    model = tiny_model(name)
    inputs = single(model)

    def another(module, args, kwargs):
        return args, with_cache(cache_name(module), kwargs, DynamicCache(config=module.config))

    with illava.accelerate(model, method_of(name)), torch.no_grad():
        llm_of(model).register_forward_pre_hook(another, with_kwargs=True)
        with pytest.raises(RuntimeError, match=MESSAGE):
            model(**inputs, use_cache=True)


def test_a_cache_that_counts_physical_lengths(monkeypatch):
    """Positions of the next step count from it."""
    monkeypatch.setattr(
        caches.MergedLayer, "get_seq_length", lambda self, *_: caches.MergedLayer.physical_length(self)
    )
    wrong(tiny_model("qwen2_vl"), use_cache=True)


def test_a_cache_that_drops_keys():
    model = tiny_model("qwen2_vl")

    def lose(module, args, kwargs, output):
        from illava.compat import cache_of

        layer = cache_of(kwargs).layers[3]
        layer.keys, layer.values, layer.dropped = (
            layer.keys[:, :, 1:],
            layer.values[:, :, 1:],
            layer.dropped + 1,
        )

    model.model.language_model.layers[3].register_forward_hook(lose, with_kwargs=True)
    wrong(model, use_cache=True)


@pytest.mark.parametrize("method", [BOTH, ENCODER], ids=["both", "encoder"])
def test_a_model_that_pads_its_states(method):
    model = tiny_model("qwen2_vl")
    norm = model.model.language_model.norm
    norm.register_forward_hook(lambda module, args, output: torch.nn.functional.pad(output, (0, 0, 1, 0)))
    wrong(model, method)


def test_a_failed_check_publishes_nothing():
    model = tiny_model("qwen2_vl")
    inputs = single(model)
    with illava.accelerate(model, BOTH) as handle, torch.no_grad():
        model(**inputs)
        before = handle.report.to_dict()
        norm = model.model.language_model.norm
        norm.register_forward_hook(lambda module, args, output: output[:, 1:])
        with pytest.raises(RuntimeError, match=MESSAGE):
            model(**inputs)
        assert handle.report.to_dict() == before


@pytest.mark.parametrize("name", ["qwen2_vl", "llava", "internvl", "mistral3"])
@pytest.mark.parametrize("stage", ["encoder", "llm"])
def test_a_step_that_never_ran(name, stage):
    """As where compiled code of one block serves another, whose hooks it does not know."""
    model = tiny_model(name)
    modules = locate(model)
    inputs = single(model)
    llm = {"llm_layers": (3,), "llm_keep": 0.7} if stage == "llm" else {"llm_layers": ()}
    method = illava.Illava(encoder_layers=(1, 3), encoder_keep=0.7, **llm)
    with illava.accelerate(model, method), torch.no_grad():
        if stage == "encoder":
            modules.blocks[3].get_submodule(modules.tower.second_norm)._forward_pre_hooks.clear()
        else:
            modules.layers[3]._forward_pre_hooks.clear()
        with pytest.raises(RuntimeError, match=r"that merged|tokens merged"):
            model(**inputs)


@pytest.mark.parametrize("rows", [1, 2])
def test_marks_that_spread(rows):
    """A sum over a row after the features are in place makes NaN of all of it; no multiple may pass."""
    model = tiny_model("qwen2_vl")
    inputs = prompt(model, [([5, 6, 7], pictures(model, 1))] * rows)

    def spread(module, args, kwargs):
        embeds = kwargs["inputs_embeds"]
        return args, {**kwargs, "inputs_embeds": embeds - embeds.mean(1, keepdim=True)}

    half = illava.Illava(encoder_layers=(1,), encoder_keep=0.5, llm_layers=())
    with illava.accelerate(model, half), torch.no_grad():
        model.model.language_model.register_forward_pre_hook(spread, with_kwargs=True, prepend=True)
        with pytest.raises(RuntimeError, match=MESSAGE):
            model(**inputs)


@pytest.mark.parametrize("name", ["qwen2_vl", "llava", "internvl", "gemma3", "mistral3"])
def test_masked_tokens_of_a_picture_are_no_fault(name):
    """They are gone as padding is: alone, in a batch and without a cache alike."""
    model = tiny_model(name)
    inputs = single(model)
    columns = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().flatten()
    inputs["attention_mask"][0, columns[::3]] = 0
    if model.config.model_type == "qwen2_vl":
        inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)
    with illava.accelerate(model, BOTH) as handle, torch.no_grad():
        cached = model(**inputs).logits[:, -1]
        assert handle.report.llm_tokens[0] < handle.report.visual_tokens
        torch.testing.assert_close(model(**inputs, use_cache=False).logits[:, -1], cached)
        assert cached.isfinite().all()
