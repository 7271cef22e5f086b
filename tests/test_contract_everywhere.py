"""What illava relies on in transformers whatever the model, and releases of it that are not tested."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
from transformers import GenerationMixin, cache_utils, masking_utils
from transformers.modeling_layers import GradientCheckpointingLayer

import illava
from illava.compat import TESTED, versions
from illava.runtime.contract import missing_everywhere
from tests.renaming import cache_name, method_of, model_of, refused, renamed, with_arguments


def test_what_depends_on_no_model_is_there():
    assert missing_everywhere() == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("DynamicLayer", "crop"),
        ("DynamicLayer", "batch_select_indices"),
        ("DynamicLayer", "batch_repeat_interleave"),
        ("Cache", "update"),
        ("Cache", "get_seq_length"),
        ("Cache", "get_mask_sizes"),
        ("Cache", "reorder_cache"),
    ],
)
def test_a_lost_method_of_a_cache_is_refused(kind, name, monkeypatch):
    monkeypatch.delattr(getattr(cache_utils, kind), name)
    refused(model_of("qwen2_vl"), "qwen2_vl", f"{kind} lost its method {name}")


def test_a_lost_class_of_caches_is_refused(monkeypatch):
    monkeypatch.delattr(cache_utils, "DynamicSlidingWindowLayer")
    refused(model_of("qwen2_vl"), "qwen2_vl", "lost its class DynamicSlidingWindowLayer")


@pytest.mark.parametrize(
    ("kind", "method", "argument"),
    [
        ("DynamicLayer", "update", "key_states"),
        ("DynamicLayer", "get_mask_sizes", "query_length"),
        ("DynamicLayer", "crop", "tokens_to_remove"),
        ("StaticLayer", "reorder_cache", "beam_idx"),
        ("StaticLayer", "__init__", "max_cache_len"),
        ("DynamicCache", "__init__", "config"),
        ("Cache", "update", "layer_idx"),
    ],
)
def test_a_renamed_argument_of_a_cache_is_refused(kind, method, argument, monkeypatch):
    owner = getattr(cache_utils, kind)
    monkeypatch.setattr(owner, method, renamed(getattr(owner, method), argument, "other"))
    refused(model_of("qwen2_vl"), "qwen2_vl", f"{kind}.{method} lost its argument {argument}")


def test_values_before_keys_are_refused(monkeypatch):
    made = with_arguments("self", "value_states", "key_states", "*args", "**kwargs")
    monkeypatch.setattr(cache_utils.DynamicLayer, "update", made)
    refused(model_of("llava"), "llava", "DynamicLayer.update takes (value_states, key_states) first")


def test_a_method_that_merged_layers_would_inherit_unseen_is_refused(monkeypatch):
    monkeypatch.setattr(cache_utils.StaticLayer, "shrink", with_arguments("self", "tokens"), raising=False)
    refused(model_of("llava"), "llava", "StaticLayer has a method shrink")


@pytest.mark.parametrize(
    "name", ["create_causal_mask", "create_sliding_window_causal_mask", "create_masks_for_generate"]
)
def test_a_mask_maker_with_its_arguments_in_another_order_is_refused(name, monkeypatch):
    cache = cache_name(getattr(masking_utils, name))
    for names in (
        ("config", "attention_mask", "inputs_embeds", cache, "position_ids=None"),
        (cache, "config", "inputs_embeds", "attention_mask", "position_ids=None"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(masking_utils, name, with_arguments(*names))
            refused(model_of("llava"), "llava", f"{name} takes ({', '.join(names[:4])}) first")
    monkeypatch.delattr(masking_utils, name)
    refused(model_of("llava"), "llava", f"lost its function {name}")


@pytest.mark.parametrize("family", ["gemma3", "paligemma"])
def test_a_mask_maker_of_the_model_with_its_arguments_in_another_order_is_refused(family, monkeypatch):
    kind, name = type(model_of(family)), "create_masks_for_generate"
    cache = cache_name(getattr(kind, name))
    made = with_arguments("config", cache, "inputs_embeds", "attention_mask", "position_ids", "**kwargs")
    monkeypatch.setattr(kind, name, staticmethod(made))
    refused(model_of(family), family, f"{kind.__name__}.{name} takes (config, {cache}, inputs_embeds")


PRIVATE = (
    "_get_candidate_generator",
    "_valid_auto_compile_criteria",
    "_prefill",
    "_assisted_decoding",
    "_sample",
)
PRIVATE += ("_expand_inputs_for_generation", "generate")


@pytest.mark.parametrize("name", PRIVATE)
def test_a_lost_part_of_generate_is_refused(name, monkeypatch):
    monkeypatch.delattr(GenerationMixin, name)
    refused(model_of("llava"), "llava", f"GenerationMixin lost its method {name}")


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("_get_candidate_generator", "input_ids"),
        ("_valid_auto_compile_criteria", "generation_config"),
        ("_prefill", "model_kwargs"),
        ("_expand_inputs_for_generation", "expand_size"),
        ("generate", "assistant_model"),
    ],
)
def test_a_renamed_argument_of_a_part_of_generate_is_refused(name, argument, monkeypatch):
    changed = renamed(getattr(GenerationMixin, name), argument, "other")
    held = vars(GenerationMixin)[name]
    monkeypatch.setattr(
        GenerationMixin, name, type(held)(changed) if isinstance(held, staticmethod) else changed
    )
    refused(model_of("llava"), "llava", f"GenerationMixin.{name} lost its argument {argument}")


def test_decoding_that_does_its_prefill_otherwise_is_refused(monkeypatch):
    def _sample(self, input_ids, **model_kwargs):
        self._valid_auto_compile_criteria(model_kwargs, None)
        return self(input_ids, **model_kwargs)

    monkeypatch.setattr(GenerationMixin, "_sample", _sample)
    refused(model_of("llava"), "llava", "GenerationMixin._sample no longer uses _prefill")


def test_checkpoints_that_run_otherwise_are_refused(monkeypatch):
    def run(self, *args, **kwargs):
        return self._checkpoint(*args, **kwargs)

    for name in {"__call__", "__init_subclass__"} & vars(GradientCheckpointingLayer).keys():
        monkeypatch.setattr(GradientCheckpointingLayer, name, run if name == "__call__" else classmethod(run))
    refused(model_of("llava"), "llava", "no longer uses _gradient_checkpointing_func")


def test_a_release_without_a_class_that_illava_imports_is_refused_at_the_import():
    code = (
        "import transformers.cache_utils as c; del c.LinearAttentionLayer\n"
        "import illava\n"
        "try: illava.accelerate\n"
        "except illava.UnsupportedError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "transformers.cache_utils lost its class LinearAttentionLayer" in run.stdout
    assert f"{TESTED[0]} to {TESTED[1]}" in run.stdout
    assert run.stdout.count("\n") == 1


# -- releases that are not tested ------------------------------------------------------------------------


def pretend(version, monkeypatch):
    # Importing its parts puts another module object in the place of the lazy one.
    monkeypatch.setattr(sys.modules["transformers"], "__version__", version)
    monkeypatch.setattr(versions, "_warned", set())


@pytest.fixture
def newer(monkeypatch):
    version = f"5.{int(TESTED[1].split('.')[1]) + 1}.0.dev0"
    pretend(version, monkeypatch)
    return version


def test_a_newer_release_on_which_the_contract_holds_warns_once(newer):
    model = model_of("qwen2_vl")
    with pytest.warns(illava.UntestedVersionWarning, match=newer):
        illava.accelerate(model, method_of("qwen2_vl")).remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        illava.accelerate(model, method_of("qwen2_vl")).remove()


def test_a_newer_release_on_which_it_does_not_is_refused(newer, monkeypatch):
    kind = type(model_of("qwen2_vl").model.language_model.layers[0])
    monkeypatch.setattr(kind, "forward", renamed(kind.forward, "position_embeddings", "rotary"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(model_of("qwen2_vl"), "qwen2_vl", newer, "lost its argument position_embeddings")


@pytest.mark.parametrize("version", ["5.19.0", "5.23.4", "5.24.0", "5.24.1"])
def test_a_tested_release_does_not_warn(version, monkeypatch):
    pretend(version, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        illava.accelerate(model_of("qwen2_vl"), method_of("qwen2_vl")).remove()
