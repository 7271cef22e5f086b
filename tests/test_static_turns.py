"""Static caches: compiled forwards, failed prefills, further turns, beams, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig
from transformers.cache_utils import StaticLayer

import illava
from illava.runtime.cache.static import LENGTHS, StaticMergedLayer
from tests.battery.test_battery import inputs_of, method_of
from tests.test_static import _fresh_compiler, generated, static_cache
from tests.tiny import picture, prompt, tiny_model

__all__ = ["_fresh_compiler"]


@pytest.mark.slow
def test_a_compiled_forward() -> None:
    model = tiny_model("llava")
    inputs = inputs_of(model, "one", "single")
    with illava.accelerate(model, method_of("llava")):
        want, _ = generated(model, inputs)
        model.forward = torch.compile(model.forward, backend="eager")
        got, cache = generated(model, inputs, past_key_values=static_cache(model))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert isinstance(cache.layers[0], StaticMergedLayer)


def test_a_prefill_that_fails_leaves_a_cache_that_can_be_emptied() -> None:
    model = tiny_model("llava")
    inputs, text = inputs_of(model, "one", "single"), prompt(model, [([5, 6, 7], [])])
    cache = static_cache(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("stop")

    with torch.no_grad(), illava.accelerate(model, method_of("llava")):
        hook = model.model.language_model.layers[3].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="stop"):
            model(**inputs, past_key_values=cache)
        hook.remove()
        cache.reset()
    with torch.no_grad():
        got = model(**text, past_key_values=cache).logits
        assert torch.equal(got, model(**text, past_key_values=static_cache(model)).logits)


@pytest.mark.parametrize("rows", ["single", "batch"])
def test_a_further_turn_of_text(rows: str) -> None:
    """The turn's tokens come at once and are padded, in generate() and by hand."""
    model = tiny_model("llava")
    inputs = inputs_of(model, "two", rows)
    count, width = inputs["input_ids"].shape
    new = torch.tensor([[21, 22, 23], [24, 25, 26], [27, 28, 29]])[:count]
    real = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1]])[:count]
    mask = torch.cat([inputs["attention_mask"], real], 1)
    found = {}
    with illava.accelerate(model, method_of("llava")), torch.no_grad():
        for name, cache in {"dynamic": None, "static": static_cache(model)}.items():
            out = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            turn = model(input_ids=new, attention_mask=mask, past_key_values=cache)
            after = torch.nn.functional.pad(mask, (0, 1), value=1)
            last = model(input_ids=new[:, :1], attention_mask=after, past_key_values=cache)
            found[name] = turn.logits[real.bool()], last.logits
            assert int(cache.get_seq_length()) == width + 4
    for got, want in zip(found["static"], found["dynamic"], strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_a_chat_goes_on_in_generate() -> None:
    model = tiny_model("qwen2_vl")
    inputs = inputs_of(model, "one", "single")
    ids = torch.cat([inputs["input_ids"], torch.tensor([[31, 32, 33, 34]])], 1)
    found = []
    with illava.accelerate(model, method_of("qwen2_vl")), torch.no_grad():
        for cache in (None, static_cache(model)):
            out = model(**inputs, past_key_values=cache, use_cache=True)
            kinds = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 4))
            turn = dict(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds)
            found.append(generated(model, turn, past_key_values=out.past_key_values)[0])
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=0)


def test_text_alone_is_left_to_transformers() -> None:
    model = tiny_model("qwen2_vl")
    text = prompt(model, [([5, 6, 7], [])])
    plain, _ = generated(model, text, cache_implementation="static")
    with illava.accelerate(model, method_of("qwen2_vl")):
        got, cache = generated(model, text, cache_implementation="static")
    assert torch.equal(got, plain)
    assert {type(layer) for layer in cache.layers} == {StaticLayer}


def test_beams() -> None:
    model = tiny_model("llava")
    inputs = inputs_of(model, "two", "batch")
    options = dict(num_beams=3, max_new_tokens=5, do_sample=False)
    with illava.accelerate(model, method_of("llava")), torch.no_grad():
        want = model.generate(**inputs, **options)
        assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), want)


def test_nothing_to_merge_leaves_a_plain_static_cache() -> None:
    """As many units are kept as there are: the prefill runs in layers that grow, and is then static again."""
    model = tiny_model("llava")
    inputs = inputs_of(model, "one", "single")
    plain, before = generated(model, inputs, cache_implementation="static")
    method = illava.Illava(encoder_layers=(1,), encoder_keep=0.999, llm_layers=())
    with illava.accelerate(model, method) as handle:
        got, cache = generated(model, inputs, cache_implementation="static")
        assert handle.report.final_tokens == handle.report.visual_tokens
    assert {type(layer) for layer in cache.layers} == {StaticLayer}
    assert [layer.keys.shape for layer in cache.layers] == [layer.keys.shape for layer in before.layers]
    torch.testing.assert_close(got, plain, atol=1e-5, rtol=0)


def test_what_is_refused() -> None:
    model = tiny_model("llava")
    inputs = inputs_of(model, "one", "single")
    text = prompt(model, [([5, 6, 7], [])])
    handle = illava.accelerate(model, method_of("llava"))
    with torch.no_grad():
        cache = static_cache(model)
        model(**text, past_key_values=cache)
        with pytest.raises(illava.UnsupportedError, match="filled static cache"):
            model(**inputs, past_key_values=cache)
        ids = torch.cat([text["input_ids"], inputs["input_ids"]], 1)
        with pytest.raises(illava.UnsupportedError, match="filled static cache"):
            generated(model, {**inputs, "input_ids": ids, "attention_mask": None}, past_key_values=cache)
        with pytest.raises(illava.UnsupportedError, match="cache of 7 tokens is shorter than the prompt"):
            model(**inputs, past_key_values=static_cache(model, 7))
        out = model(**inputs, past_key_values=static_cache(model))
        model.set_attn_implementation("flex_attention")
        with pytest.raises(illava.UnsupportedError, match=r"static caches are not supported with .*flex"):
            model(input_ids=torch.tensor([[5]]), past_key_values=out.past_key_values)
        model.set_attn_implementation("sdpa")
        handle.remove()
        with pytest.raises(illava.UnsupportedError, match="can only be used while it is"):
            model(input_ids=torch.tensor([[5]]), past_key_values=out.past_key_values)


@pytest.mark.slow
def test_pictures_of_many_sizes_share_compiled_code() -> None:
    """Twelve sizes of a picture, and no shapes that vary: fewer lengths than dynamo compiles for."""
    model = tiny_model("qwen2_vl")
    config = CompileConfig(backend="eager", mode=None, dynamic=False)
    config._compile_all_devices = True
    rooms = set()
    with illava.accelerate(model, illava.Illava.best(1 / 3)):
        counters.clear()
        cache = static_cache(model, 1200)
        for number in reversed(range(12)):
            inputs = prompt(model, [([5, 6, 7, 8], [picture(model, (6 + 8 * number, 12))])])
            generated(model, inputs, past_key_values=cache, compile_config=config, max_new_tokens=3)
            rooms.add(tuple(layer.keys.shape[2] for layer in cache.layers))
            cache.reset()
    assert 2 < len(rooms) <= LENGTHS
    assert counters["stats"]["unique_graphs"] == len(rooms)
