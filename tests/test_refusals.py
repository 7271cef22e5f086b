"""What is refused: in one line, naming what is supported, with nothing left attached."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertModel, MllamaConfig, Qwen2Config
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer, QuantizedLayer

import illava
from illava.models.families import family_of
from illava.runtime.cache.setup import prepare_for_merging
from tests.test_exact import BOTH, LLM, single
from tests.tiny import FAMILIES, IMAGE, prompt, tiny_model

every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.mark.parametrize(
    "model",
    [
        BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)),
        torch.nn.Linear(2, 2),
    ],
    ids=["bert", "linear"],
)
def test_other_models_are_refused_naming_the_supported_families(model):
    with pytest.raises(illava.UnsupportedError) as error:
        illava.accelerate(model)
    assert "\n" not in str(error.value)
    for family in illava.supported_families():
        assert family in str(error.value)


def test_a_text_only_model_is_refused():
    config = Qwen2Config(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with pytest.raises(illava.UnsupportedError, match="'qwen2'"):
        illava.accelerate(AutoModelForCausalLM.from_config(config))


def test_mllama_is_refused_with_its_reason():

    with pytest.raises(illava.UnsupportedError, match="uses cross-attention"):
        family_of(MllamaConfig())


def test_an_unsupported_attention_backend_is_refused():
    model = tiny_model("qwen2_vl")
    model.config.vision_config._attn_implementation = "paged|eager"
    with pytest.raises(illava.UnsupportedError, match=r"paged.*sdpa.*eager.*flash_attention_2"):
        illava.accelerate(model)


@every_family
def test_labels_that_are_shifted_already_are_refused(family):
    model = tiny_model(family)
    inputs = single(model)
    with illava.accelerate(model, BOTH), pytest.raises(illava.UnsupportedError, match="shift_labels"):
        model(**inputs, labels=inputs["input_ids"], shift_labels=inputs["input_ids"])


def sliding_cache(model):
    cache = DynamicCache()
    cache.layers = [DynamicSlidingWindowLayer(sliding_window=4) for _ in model.model.language_model.layers]
    return cache


@every_family
def test_sliding_caches_are_refused_with_pictures_where_the_model_has_none(family):
    model = tiny_model(family)
    refused = pytest.raises(illava.UnsupportedError, match="DynamicCache")
    with illava.accelerate(model, BOTH), refused as error:
        model(**single(model), past_key_values=sliding_cache(model))
    assert "\n" not in str(error.value)


def test_quantised_layers_are_refused():

    class Quantised(QuantizedLayer):
        """Needs no quantisation library: what counts here is that it is no plain DynamicLayer."""

        def _quantize(self, *_):
            raise AssertionError

        _dequantize = _quantize

    cache = DynamicCache()
    cache.layers = [Quantised()]
    with pytest.raises(illava.UnsupportedError, match="Quantised"):
        prepare_for_merging(cache, [None])


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
def test_the_llm_stage_is_refused_behind_recurrent_layers(name):
    model = tiny_model(name)
    with pytest.raises(illava.UnsupportedError, match=r"recurrent.*llm_layers=\(\)"):
        illava.accelerate(model, illava.Illava(encoder_layers=(), llm_layers=(4,), llm_keep=0.5))
    illava.accelerate(model, illava.Illava(encoder_layers=(1,), encoder_keep=0.5, llm_layers=())).remove()


def test_a_prompt_in_chunks_is_refused_with_pictures():
    model = tiny_model("qwen2_vl")
    inputs, text = single(model), prompt(model, [([5, 6, 7, 8, 9, 10], [])])
    with illava.accelerate(model, BOTH):
        with pytest.raises(illava.UnsupportedError, match="prefill_chunk_size=5"):
            model.generate(**inputs, max_new_tokens=3, prefill_chunk_size=5)
        # One chunk is no matter.
        assert model.generate(**inputs, max_new_tokens=3, prefill_chunk_size=500).shape[0] == 1
        assert model.generate(**text, max_new_tokens=3, prefill_chunk_size=5).shape[1] == 10


@every_family
def test_a_prompt_that_ends_with_a_picture_is_refused(family):
    model = tiny_model(family)
    inputs = single(model)
    end = int((inputs["input_ids"] == IMAGE).nonzero()[-1, 1]) + 1
    cut = ("input_ids", "attention_mask", "mm_token_type_ids")
    ended = {name: value[:, :end] if name in cut else value for name, value in inputs.items()}
    with torch.no_grad():
        plain = model(**ended).logits
        with (
            illava.accelerate(model, BOTH),
            pytest.raises(illava.UnsupportedError, match="ends with a picture"),
        ):
            model(**ended)
        with illava.accelerate(model, keep=1.0):
            assert torch.equal(model(**ended).logits, plain)


@pytest.mark.parametrize("copying", [copy.deepcopy, pickle.dumps])
def test_copying_an_accelerated_model_is_refused(copying):
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model, BOTH), pytest.raises(illava.UnsupportedError, match=r"remove\(\) first"):
        copying(model)
    assert copy.deepcopy(model) is not model


def test_positions_of_logits_are_refused_with_pictures_but_not_their_number():
    model = tiny_model("qwen2_vl")
    inputs = single(model)
    with illava.accelerate(model, BOTH), torch.no_grad():
        assert model(**inputs, logits_to_keep=1).logits.shape[1] == 1
        with pytest.raises(illava.UnsupportedError, match="logits_to_keep"):
            model(**inputs, logits_to_keep=torch.tensor([5]))


@pytest.mark.parametrize("name", ["qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe"])
@pytest.mark.parametrize("asked", ["argument", "config"])
def test_router_logits_are_refused_with_pictures(name, asked):
    model = tiny_model(name)
    inputs, text = single(model), prompt(model, [([5, 6, 7], [])])
    wanted = {"output_router_logits": True} if asked == "argument" else {}
    model.config.text_config.output_router_logits = asked == "config"
    with torch.no_grad():
        plain = model(**inputs, **wanted).aux_loss
        with illava.accelerate(model, keep=1.0):
            assert torch.equal(model(**inputs, **wanted).aux_loss, plain)
        encoder = illava.Illava(encoder_layers=(1,), encoder_keep=0.5, llm_layers=())
        with illava.accelerate(model, encoder):
            assert model(**text, **wanted).aux_loss.isfinite()
            with pytest.raises(illava.UnsupportedError, match="output_router_logits") as error:
                model(**inputs, **wanted)
            assert "\n" not in str(error.value)
            assert model(**inputs, output_router_logits=False).logits.isfinite().all()


def test_labels_are_fine_where_nothing_gets_shorter():
    model = tiny_model("qwen2_vl")
    inputs, text = single(model), prompt(model, [([5, 6, 7], [])])
    with torch.no_grad():
        plain = model(**inputs, labels=inputs["input_ids"]).loss
        with illava.accelerate(model, keep=1.0):
            assert torch.equal(model(**inputs, labels=inputs["input_ids"]).loss, plain)
        with illava.accelerate(model, BOTH):
            assert model(**text, labels=text["input_ids"]).loss.isfinite()


@pytest.mark.parametrize("wrong", [0.5, illava.Illava, "illava"])
def test_something_else_than_a_method_is_refused(wrong):
    with pytest.raises(ValueError, match=r"keep=0.5"):
        illava.accelerate(tiny_model("qwen2_vl"), wrong)


def test_a_removed_handle_cannot_be_entered():
    handle = illava.accelerate(tiny_model("qwen2_vl"), BOTH)
    handle.remove()
    with pytest.raises(ValueError, match="removed already"), handle:
        pass


@pytest.mark.parametrize(
    ("layer", "allowed"), [(-1, True), (-2, True), (-3, False), ([-1, -2], True), ([-1, -3], False)]
)
def test_the_feature_layer_must_come_after_the_merging(layer, allowed):
    model = tiny_model("llava")
    model.config.vision_feature_layer = layer
    if not isinstance(layer, int):
        # Its projector takes them side by side.
        model.model.multi_modal_projector.linear_1 = torch.nn.Linear(48, 32)
    inputs = single(model)
    if allowed:
        with illava.accelerate(model, BOTH), torch.no_grad():
            assert model(**inputs).logits.isfinite().all()
    else:
        with pytest.raises(illava.UnsupportedError, match="vision_feature_layer"):
            illava.accelerate(model, BOTH)
        illava.accelerate(model, LLM).remove()


def test_another_vision_tower_is_refused():
    model = tiny_model("llava_onevision")
    model.config.vision_config.model_type = "hiera"
    with pytest.raises(illava.UnsupportedError, match="vision tower of type 'hiera' is not supported"):
        illava.accelerate(model)
