"""The handle: undo, refusals, and what it reports."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import illava
from tests.test_exact import BOTH, batch, logits_of_steps, several, single
from tests.tiny import FAMILIES, IMAGE, pictures, prompt, tiny_model

every_family = pytest.mark.parametrize("family", FAMILIES)


def state_of(model):
    """Everything that acceleration could leave behind on any module."""
    return {
        name: (
            # transformers itself keeps the last prompt's M-RoPE offset on the model.
            {k: id(v) for k, v in vars(module).items() if not k.startswith("_") and k != "rope_deltas"},
            sorted(key for key in vars(module) if not key.endswith("_hooks")),
            [len(hooks) for key, hooks in vars(module).items() if key.endswith("_hooks") and hooks],
            id(getattr(module, "config", None)),
        )
        for name, module in model.named_modules()
    }


@every_family
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_remove_gives_the_plain_model_back(family, attention):
    model = tiny_model(family, attention)
    inputs = batch(model)
    plain, _ = logits_of_steps(model, inputs)
    before = state_of(model)
    handle = illava.accelerate(model, BOTH)
    assert state_of(model) != before
    merged, _ = logits_of_steps(model, inputs)
    assert not torch.equal(merged, plain)
    handle.remove()
    assert state_of(model) == before
    assert torch.equal(logits_of_steps(model, inputs)[0], plain)
    handle.remove()
    assert state_of(model) == before


@every_family
def test_leaving_the_context_undoes_it_also_after_an_exception_inside(family):
    model = tiny_model(family)
    inputs = single(model)
    plain, _ = logits_of_steps(model, inputs)
    before = state_of(model)

    def fail(*_):
        raise KeyError("from inside a layer")

    with pytest.raises(KeyError, match="inside a layer"), illava.accelerate(model, BOTH):
        breaking = model.model.language_model.layers[3].register_forward_pre_hook(fail)
        try:
            model(**inputs)
        finally:
            breaking.remove()
    assert state_of(model) == before
    assert torch.equal(logits_of_steps(model, inputs)[0], plain)


@every_family
def test_a_failed_pass_does_not_spoil_the_next(family):
    model = tiny_model(family)
    inputs = batch(model)
    with illava.accelerate(model, BOTH):
        expected, _ = logits_of_steps(model, inputs)
        for place in (model.model.language_model.layers[2], model.model.language_model, model.lm_head):
            breaking = place.register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(**inputs)
            breaking.remove()
        assert torch.equal(logits_of_steps(model, inputs)[0], expected)


def test_accelerating_twice_is_refused_and_leaves_the_first():
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model, BOTH) as handle:
        for again in (model, model.model):
            with pytest.raises(ValueError, match="accelerated already"):
                illava.accelerate(again)
        logits_of_steps(model, single(model))
        assert handle.report.final_tokens < handle.report.visual_tokens
    illava.accelerate(model).remove()


def test_two_models_of_one_class_do_not_share_anything():
    merged, plain = tiny_model("qwen2_vl"), tiny_model("qwen2_vl")
    inputs = single(plain)
    expected, _ = logits_of_steps(plain, inputs)
    with illava.accelerate(merged, BOTH):
        assert torch.equal(logits_of_steps(plain, inputs)[0], expected)
        assert not torch.equal(logits_of_steps(merged, inputs)[0], expected)


def test_the_base_model_can_be_accelerated_too():
    model = tiny_model("qwen2_vl")
    inputs = single(model)
    with torch.no_grad():
        with illava.accelerate(model, BOTH):
            expected = model.model(**inputs).last_hidden_state
        with illava.accelerate(model.model, BOTH):
            assert torch.equal(model.model(**inputs).last_hidden_state, expected)


def test_changing_the_backend_while_accelerated_is_honoured():
    model = tiny_model("qwen2_vl", "sdpa")
    inputs = single(model)
    with illava.accelerate(model, BOTH):
        first, _ = logits_of_steps(model, inputs)
        model.set_attn_implementation("eager")
        second, _ = logits_of_steps(model, inputs)
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)
    with illava.accelerate(tiny_model("qwen2_vl", "eager"), BOTH) as handle:
        assert torch.equal(logits_of_steps(handle.model, inputs)[0], second)


def test_report_needs_a_prefill_with_pictures():
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model) as handle:
        with pytest.raises(ValueError, match="no report yet"):
            _ = handle.report
        logits_of_steps(model, prompt(model, [([5, 6], [])]))
        with pytest.raises(ValueError, match="no report yet"):
            _ = handle.report
        logits_of_steps(model, several(model), steps=1)
        assert handle.report.visual_tokens == sum(p.tokens for p in pictures(model, 3))


def test_a_method_and_keep_together_are_refused():
    model = tiny_model("qwen2_vl")
    with pytest.raises(ValueError, match="either a method or keep"):
        illava.accelerate(model, BOTH, keep=0.5)


def test_a_layer_that_does_not_exist_is_refused_and_nothing_stays_attached():
    model = tiny_model("qwen2_vl")
    before = state_of(model)
    with pytest.raises(ValueError, match=r"layers 0 to 4, got 9"):
        illava.accelerate(model, illava.Illava(encoder_layers=(9,), encoder_keep=0.5))
    assert state_of(model) == before


@every_family
def test_a_result_does_not_depend_on_calls_before(family):
    """Scoring several answers to one picture without a cache: longer prompts with a common beginning."""
    model = tiny_model(family)
    base = single(model)
    longer = dict(base)
    longer["input_ids"] = torch.cat([base["input_ids"], torch.tensor([[3, 4, 5, 6]])], 1)
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    if "mm_token_type_ids" in base:
        longer["mm_token_type_ids"] = (longer["input_ids"] == IMAGE).int()
    with illava.accelerate(model, BOTH), torch.no_grad():
        first = model(**longer, use_cache=False).logits
        model(**base, use_cache=False)
        assert torch.equal(model(**longer, use_cache=False).logits, first)


@every_family
def test_a_merged_cache_does_not_outlive_the_handle(family):
    model = tiny_model(family)
    with illava.accelerate(model, BOTH), torch.no_grad():
        cache = model(**batch(model), use_cache=True).past_key_values
    with pytest.raises(illava.UnsupportedError, match="run the prompt again"):
        model(input_ids=torch.tensor([[3], [3], [3]]), past_key_values=cache)


def test_the_handle_does_not_hold_the_cache():
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model, BOTH) as handle, torch.no_grad():
        cache = model(**single(model), use_cache=True).past_key_values
        layer = weakref.ref(cache.layers[0])
        del cache
        gc.collect()
        assert layer() is None
        assert handle.report.final_tokens


def test_an_encoder_that_failed_leaves_nothing_behind():
    model = tiny_model("qwen2_5_vl")
    inputs = single(model)
    words = model.get_input_embeddings()(torch.tensor([[5, 6, 7]]))

    def fail(*_):
        raise KeyError

    with illava.accelerate(model, illava.Illava(keep=0.5)), torch.no_grad():
        expected = model.model.language_model(inputs_embeds=words).last_hidden_state
        hook = model.model.visual.merger.register_forward_hook(fail)
        with pytest.raises(KeyError):
            model(**inputs)
        hook.remove()
        found = model.model.language_model(inputs_embeds=words).last_hidden_state
    assert torch.equal(found, expected)


def test_the_old_name_of_the_modules_warns():
    with (
        illava.accelerate(tiny_model("llava")) as handle,
        pytest.warns(DeprecationWarning, match=r"Handle\.parts"),
    ):
        assert handle.parts is handle.modules
