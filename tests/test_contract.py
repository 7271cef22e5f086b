"""What illava relies on in transformers: it is there on this release, and what is lost is refused by name."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn

import illava
from illava.compat import TESTED
from illava.models.located import locate
from illava.runtime.contract import contract_faults
from illava.runtime.contract.entries import FORWARDS
from tests.renaming import cache_name, method_of, model_of, refused, renamed, with_arguments
from tests.tiny import ALL, EVERY, LLM_ONLY, pictures, prompt, tiny_model

every_family = pytest.mark.parametrize("family", EVERY)
every_encoder = pytest.mark.parametrize("family", ALL)


# -- it holds --------------------------------------------------------------------------------------------


@every_family
def test_the_contract_holds_on_the_installed_release(family):
    model = model_of(family)
    assert contract_faults(locate(model)) == []
    illava.accelerate(model, method_of(family)).remove()


def test_pyproject_and_the_tested_range_are_one():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    low, high = re.search(r'"transformers>=([\d.]+),<([\d.]+)"', text).groups()
    major, minor = TESTED[1].split(".")
    assert (low, high) == (TESTED[0], f"{major}.{int(minor) + 1}")


class Spy(dict):
    """Keyword arguments that remember which of them were asked for."""

    def __init__(self, kwargs, asked):
        super().__init__(kwargs)
        self.asked = asked

    def get(self, name, default=None):
        self.asked.add(name)
        return super().get(name, default)

    def __getitem__(self, name):
        self.asked.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize(
    "family", ["llava_onevision", "qwen2_vl", "llava-pixtral", "llava-dinov2", "qwen3_vl", "gemma3"]
)
def test_the_list_names_every_argument_that_hooks_ask_for_or_change(family):
    model = tiny_model(family)
    modules = locate(model)
    listed = {}
    for entry in FORWARDS:
        call = entry.call_of(modules)
        for owner, path in entry.targets(modules):
            for name in (*call.leading, *call.names, *(call.known or ())):
                listed.setdefault(owner.get_submodule(path), set()).update(
                    [name] if isinstance(name, str) else name
                )
    found = {}

    def spying(hook, module):
        def run(_, args, kwargs):
            asked = found.setdefault(module, set())
            output = hook(module, args, Spy(kwargs, asked))
            if output is not None:
                asked |= {n for n, value in output[1].items() if n not in kwargs or value is not kwargs[n]}
            return output

        return run

    inputs = prompt(model, [([5, 6, 7], pictures(model, 1))])
    with illava.accelerate(model, method_of(family)):
        for module in model.modules():
            for key, hook in module._forward_pre_hooks.items():
                module._forward_pre_hooks[key] = spying(hook, module)
        model(**inputs)
    # Handed through from the keywords of a flash kernel, or asked of whoever gives them.
    free = {
        "cu_seq_lens_q",
        "cu_seq_lens_k",
        "max_length_q",
        "max_length_k",
        "output_router_logits",
        "max_seqlen",
        "cu_seqlens",
        "seq_idx",
        "shift_labels",
    }
    free |= {"pixel_values_videos", "use_cache", "past_key_values"}
    assert sum(map(len, found.values())) > 15
    for module, names in found.items():
        assert names - free <= listed.get(module, set()), type(module).__name__


# -- renamed arguments -----------------------------------------------------------------------------------


def arguments(family: str) -> list[tuple[nn.Module, str]]:
    """Every hooked or called forward of a model that has arguments to lose, and each of those."""
    model = model_of(family)
    modules = locate(model)
    layer = next(x for x, no in zip(modules.layers, modules.recurrent, strict=True) if not no)
    attention = layer.get_submodule(modules.family.llm_attention)
    found = [(model, name) for name in ("input_ids", "attention_mask", "labels")]
    found += [] if modules.family.all_logits else [(model, "logits_to_keep")]
    found += [(modules.base, name) for name in ("attention_mask", "inputs_embeds", "pixel_values")]
    found += [(modules.llm, name) for name in ("attention_mask", "position_ids", "inputs_embeds")]
    of_layer = ("hidden_states", "attention_mask", "position_ids", "position_embeddings")
    found += [(layer, name) for name in of_layer if name in inspect.signature(type(layer).forward).parameters]
    if not family.startswith("qwen3_5"):
        # Nothing merges in that LLM, so nothing is read off its attention.
        found += [(attention, name) for name in ("hidden_states", "attention_mask", "position_embeddings")]
    found += [
        (module, cache_name(type(module).forward)) for module in (model, modules.base, modules.llm, layer)
    ]
    if family in LLM_ONLY:
        return found
    block = modules.blocks[0]
    found += [(block, "hidden_states"), (block.get_submodule(modules.tower.attention), "hidden_states")]
    if modules.tower.packed and not modules.tower.masked:
        found += [(modules.encoder, "grid_thw"), (block, "cu_seqlens")]
        found += [(block, "position_embeddings")] if modules.tower.rotary else []
        found += [
            (block.get_submodule(modules.tower.attention), name) for name in ("cu_seqlens", "max_seqlen")
        ]
        found += [(modules.base, "pixel_values_videos")] if modules.family.video else []
    elif modules.tower.packed:
        found += [(modules.encoder, "image_sizes"), (block, "attention_mask"), (block, "position_embeddings")]
    if modules.family.taps:
        found += [(modules.llm, name) for name in ("visual_pos_masks", "deepstack_visual_embeds")]
    return found


@every_family
def test_a_renamed_argument_of_any_forward_is_refused_by_name(family, monkeypatch):
    model = model_of(family)
    layer = next(module for module, name in arguments(family) if name == "position_embeddings")
    for module, name in arguments(family):
        kind = type(module)
        with monkeypatch.context() as patch:
            patch.setattr(kind, "forward", renamed(kind.forward, name, f"other_{name}"))
            # A layer may do without positions, but not have them by another name.
            lost = (module, name) != (layer, "position_ids")
            what = ("lost its argument", name) if lost else (f"has an unknown argument other_{name}",)
            refused(model, family, f"{kind.__name__}.forward {what[0]}", what[-1])
    illava.accelerate(model, method_of(family)).remove()


@every_encoder
def test_a_projector_that_takes_something_else_first_is_refused(family, monkeypatch):
    kind = type(locate(model_of(family)).projector)
    forward = with_arguments("self", "image_sizes", "image_features")
    monkeypatch.setattr(kind, "forward", forward)
    refused(model_of(family), family, f"{kind.__name__}.forward takes (image_sizes) first")


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_vl"])
def test_a_layer_with_an_argument_that_illava_does_not_know_is_refused(family, monkeypatch):
    modules = locate(model_of(family))
    for module in (modules.layers[0], modules.blocks[0], modules.llm):
        forward = type(module).forward
        names = [name for name in inspect.signature(forward).parameters if name != "kwargs"]
        other = inspect.signature(with_arguments(*names, "per_layer_inputs", "**kwargs"))
        made = functools.wraps(forward)(lambda *args, run=forward, **kwargs: run(*args, **kwargs))
        made.__signature__ = other
        with monkeypatch.context() as patch:
            patch.setattr(type(module), "forward", made)
            refused(
                model_of(family),
                family,
                f"{type(module).__name__}.forward has an unknown argument per_layer_inputs",
            )


def test_arguments_are_read_through_hooks_of_accelerate_and_compilation(monkeypatch):
    model = tiny_model("qwen2_vl")
    layers = model.model.language_model.layers
    for layer in layers:
        add_hook_to_module(layer, ModelHook())
    model.model.visual.blocks[1] = torch.compile(model.model.visual.blocks[1])
    illava.accelerate(model, method_of("qwen2_vl")).remove()
    block = type(model.model.visual.blocks[0])
    with monkeypatch.context() as patch:
        patch.setattr(block, "forward", renamed(block.forward, "cu_seqlens", "bounds"))
        model.model.visual.blocks[0] = torch.compile(model.model.visual.blocks[0])
        refused(model, "qwen2_vl", "Qwen2VLVisionBlock.forward lost its argument cu_seqlens")
    # The hooks hold the forward that they wrapped.
    kind = type(layers[0])
    other = tiny_model("qwen2_vl")
    monkeypatch.setattr(kind, "forward", renamed(kind.forward, "position_embeddings", "tables"))
    illava.accelerate(model, method_of("qwen2_vl")).remove()
    for layer in other.model.language_model.layers:
        add_hook_to_module(layer, ModelHook())
    refused(other, "qwen2_vl", "Qwen2VLDecoderLayer.forward lost its argument position_embeddings")


@pytest.mark.parametrize("of", ["encoder", "llm"])
@every_encoder
def test_attention_that_looks_up_no_implementation_is_refused(family, of, monkeypatch):
    modules = locate(model_of(family))
    index = modules.recurrent.index(False)
    path = modules.family.llm_attention if of == "llm" else modules.tower.attention
    kind = type((modules.layers[index] if of == "llm" else modules.blocks[0]).get_submodule(path))
    if of == "llm" and family.startswith("qwen3_5"):
        pytest.skip("nothing merges in this LLM, so nothing is read off its attention")

    def forward(
        self, hidden_states, cu_seqlens=None, position_embeddings=None, max_seqlen=None, attention_mask=None
    ):
        return self.o_proj(hidden_states), None

    monkeypatch.setattr(kind, "forward", forward)
    refused(model_of(family), family, f"{kind.__name__}.forward no longer uses")


@every_encoder
def test_an_eager_function_with_other_arguments_is_refused(family, monkeypatch):
    modules = locate(model_of(family))
    attention = modules.blocks[0].get_submodule(modules.tower.attention)
    home = sys.modules[type(attention).__module__]
    monkeypatch.setattr(
        home, "eager_attention_forward", with_arguments("module", "key", "query", "value", "scaling")
    )
    refused(model_of(family), family, "eager_attention_forward lost its argument attention_mask")
    monkeypatch.delattr(home, "eager_attention_forward")
    refused(model_of(family), family, "lost its function eager_attention_forward")


# -- modules, configs, methods ---------------------------------------------------------------------------


@every_family
def test_a_renamed_module_is_refused_by_its_path(family):
    modules = locate(model_of(family))
    places = [
        (modules.base, modules.family.encoder),
        (modules.base, modules.family.projector),
        (modules.base, modules.family.llm),
    ]
    places += [(modules.llm, modules.family.llm_layers)]
    places += [] if family in LLM_ONLY else [(modules.encoder, modules.tower.blocks)]
    places += [
        (block, path)
        for block in modules.blocks[:1]
        for path in (modules.tower.second_norm, modules.tower.mlp, modules.tower.attention)
    ]
    layer = modules.layers[modules.recurrent.index(False)]
    if not family.startswith("qwen3_5"):
        places.append((layer, modules.family.llm_attention))
    if modules.family.pooler:
        places.append((modules.base, modules.family.pooler))
    for owner, path in places:
        before, _, last = path.rpartition(".")
        inside = owner.get_submodule(before)._modules
        kept = dict(inside)
        inside[f"new_{last}"] = inside.pop(last)
        try:
            refused(model_of(family), family, "has no module", path)
        finally:
            inside.clear()
            inside.update(kept)
    illava.accelerate(model_of(family), method_of(family)).remove()
