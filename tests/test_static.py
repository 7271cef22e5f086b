"""Static caches: a merged prompt is held in layers of constant, shorter length, which generate() compiles.

Held against the dynamic cache, and against recomputing the whole sequence at every step.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import CompileConfig, StaticCache

import illava
from illava.runtime.cache.merged import MergedLayer
from illava.runtime.cache.static import ROUNDED, StaticMergedLayer
from tests.battery.test_battery import CLOSE, inputs_of, method_of
from tests.tiny import ALL, MIXED_WINDOWS, WITH_VIDEO, prompt, tiny_model

NEW = 6
GROWING = ("gemma3", "llava-windows", "paligemma", "paligemma-2", "qwen3_5", "qwen3_5_moe", *MIXED_WINDOWS)
"""Sliding windows, masks made ready, recurrent layers: these are held in layers that grow."""
STATIC = tuple(name for name in ALL if not name.startswith(GROWING))
OPTIONS = dict(max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True)
ENCODER = illava.Illava(encoder_layers=(1,), encoder_keep=0.5, llm_layers=())


def generated(model: nn.Module, inputs: dict[str, Tensor], **options: Any) -> tuple[Tensor, Any]:
    """Logits (steps, B, V) of a greedy answer, and its cache."""
    with torch.no_grad():
        found = model.generate(**inputs, **{**OPTIONS, **options})
    return torch.stack(found.logits), found.past_key_values


@pytest.fixture(autouse=True)
def _fresh_compiler():
    # Graphs of other tests' models count towards how many there may be.
    torch._dynamo.reset()


def static_cache(model: nn.Module, room: int = 300) -> StaticCache:
    return StaticCache(config=model.config.get_text_config(), max_cache_len=room)


CELLS = [
    (name, *cell)
    for name in STATIC
    for cell in (("one", "single", "sdpa"), ("two", "batch", "sdpa"), ("two", "batch", "eager"))
]
CELLS += [(name, "video", "single", "sdpa") for name in STATIC if name in WITH_VIDEO]


@pytest.mark.parametrize(("name", "shown", "rows", "attention"), CELLS)
def test_as_with_a_dynamic_cache(name: str, shown: str, rows: str, attention: str) -> None:
    model = tiny_model(name, attention)
    inputs = inputs_of(model, shown, rows)
    plain, plain_cache = generated(model, inputs, cache_implementation="static")
    with illava.accelerate(model, method_of(name)):
        want, held = generated(model, inputs)
        anew, _ = generated(model, inputs, use_cache=False)
        got, cache = generated(model, inputs, cache_implementation="static")
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    torch.testing.assert_close(got, anew, atol=1e-5, rtol=0)
    assert {type(layer) for layer in cache.layers} == {StaticMergedLayer}
    for layer, before, grown in zip(cache.layers, plain_cache.layers, held.layers, strict=True):
        # No longer than the plain model's, and no longer than what is left needs, rounded up.
        assert layer.keys.shape[2] <= before.keys.shape[2]
        assert layer.keys.shape[2] < grown.keys.shape[2] + 1 + ROUNDED
        assert int(layer.cumulative_length) == grown.keys.shape[2]
        assert int(layer.get_seq_length()) == grown.get_seq_length()
    assert torch.equal(generated(model, inputs, cache_implementation="static")[0], plain), "taken off"


def test_rounding_saves_memory_where_it_can() -> None:
    model = tiny_model("llava")
    inputs = inputs_of(model, "two", "single")
    with illava.accelerate(model, illava.Illava(keep=0.1)):
        cache = static_cache(model, 200 + inputs["input_ids"].shape[1])
        generated(model, inputs, past_key_values=cache, max_new_tokens=2)
    for layer in cache.layers:
        room, least = layer.keys.shape[2], int(layer.cumulative_length) + 199
        assert least <= room < least + ROUNDED
        assert room % ROUNDED == 0


@pytest.mark.parametrize("name", [name for name in ALL if name not in STATIC])
def test_what_cannot_be_static_is_held_in_layers_that_grow(name: str) -> None:
    model = tiny_model(name)
    inputs = inputs_of(model, "one", "batch")
    with illava.accelerate(model, method_of(name)):
        want, _ = generated(model, inputs)
        got, cache = generated(model, inputs, cache_implementation="static")
        mine = static_cache(model)
        refused = pytest.raises(illava.UnsupportedError, match=r"static caches .* use a DynamicCache")
        with torch.no_grad(), refused:
            model(**inputs, past_key_values=mine)
    torch.testing.assert_close(got, want, atol=CLOSE.get(name, 1e-5), rtol=0)
    assert any(isinstance(layer, MergedLayer) for layer in cache.layers)


@pytest.mark.parametrize(
    "name",
    ["llava", "qwen2_vl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3_vl", "internvl"))],
)
def test_decoding_is_compiled_whole_and_once(name: str) -> None:
    """With the backend that only traces: one graph without a break, for the next prompt of this size too."""
    model = tiny_model(name)
    inputs, other = inputs_of(model, "two", "batch"), inputs_of(model, "two", "batch")
    other["input_ids"] = other["input_ids"].where(other["input_ids"] != 5, 17)
    config = CompileConfig(backend="eager", fullgraph=True, mode=None, dynamic=False)
    config._compile_all_devices = True
    compiled = dict(cache_implementation="static", compile_config=config)
    plain, _ = generated(model, inputs, **compiled)
    with illava.accelerate(model, method_of(name)):
        want = [generated(model, one)[0] for one in (inputs, other)]
        counters.clear()
        got = [generated(model, one, **compiled)[0] for one in (inputs, other)]
        assert counters["stats"]["unique_graphs"] == 1
        assert not counters["graph_break"]
    for one, two in zip(got, want, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    assert not torch.equal(got[0], got[1])
    assert torch.equal(generated(model, inputs, **compiled)[0], plain)


@pytest.mark.slow
def test_decoding_compiled_by_inductor() -> None:
    model = tiny_model("qwen2_vl")
    inputs = inputs_of(model, "two", "batch")
    config = CompileConfig(fullgraph=True, mode="default")
    config._compile_all_devices = True
    with illava.accelerate(model, method_of("qwen2_vl")):
        want, _ = generated(model, inputs)
        got, _ = generated(model, inputs, cache_implementation="static", compile_config=config)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", [ENCODER, method_of("llava")], ids=["encoder", "both"])
def test_a_cache_of_ones_own_filled_by_hand_and_used_again(method: illava.Illava) -> None:
    model = tiny_model("llava")
    inputs = inputs_of(model, "two", "batch")
    mask = inputs["attention_mask"]

    def steps(cache: Any) -> Tensor:
        with torch.no_grad():
            out = model(**inputs, past_key_values=cache, use_cache=True)
            logits, seen = [out.logits[:, -1]], mask
            for _ in range(3):
                seen = torch.nn.functional.pad(seen, (0, 1), value=1)
                step = dict(input_ids=logits[-1].argmax(-1)[:, None], attention_mask=seen)
                logits.append(model(**step, past_key_values=out.past_key_values).logits[:, -1])
        return torch.stack(logits)

    cache = static_cache(model)
    text = prompt(model, [([5, 6, 7], [])])
    with illava.accelerate(model, method):
        want = steps(None)
        for _ in range(2):
            torch.testing.assert_close(steps(cache), want, atol=1e-5, rtol=0)
            assert {type(layer) for layer in cache.layers} == {StaticMergedLayer}
            cache.reset()
        # Empty it is a plain one: for text, and for the plain model.
        with torch.no_grad():
            logits = model(**text, past_key_values=cache).logits
    fresh = static_cache(model)
    with torch.no_grad():
        assert torch.equal(logits, model(**text, past_key_values=fresh).logits)
    assert [layer.keys.shape for layer in cache.layers] == [layer.keys.shape for layer in fresh.layers]


PAST = [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
"""Of three new tokens in each of three rows, which are real."""
TURNS = ("llava", "qwen2_vl", "internvl", "llava_onevision", "qwen3_vl")


def chat(model: nn.Module, cache: Any, hidden: bool) -> tuple[Tensor, Tensor]:
    """An answer, then a padded turn on its cache; ``hidden``: the middle row's answer ended earlier."""
    inputs = inputs_of(model, "one", "batch")
    with torch.no_grad():
        first = model.generate(
            **inputs, max_new_tokens=4, do_sample=False, past_key_values=cache, return_dict_in_generate=True
        )
    sequence, mask = first.sequences, inputs["attention_mask"]
    mask = torch.nn.functional.pad(mask, (0, sequence.shape[1] - mask.shape[1]), value=1)
    if hidden:
        sequence[1, -2:], mask[1, -2:] = 0, 0
    turn = torch.arange(21, 30).view(3, 3)
    ids, mask = torch.cat([sequence, turn], 1), torch.cat([mask, torch.tensor(PAST)], 1)
    more = dict(attention_mask=mask)
    if "mm_token_type_ids" in inputs:
        kinds = inputs["mm_token_type_ids"]
        more["mm_token_type_ids"] = torch.nn.functional.pad(kinds, (0, ids.shape[1] - kinds.shape[1]))
    logits, _ = generated(model, {"input_ids": ids, **more}, past_key_values=first.past_key_values)
    return sequence, logits


@pytest.mark.parametrize("hidden", [False, True], ids=["padded turn", "tokens hidden later"])
@pytest.mark.parametrize("name", TURNS)
def test_a_padded_turn_in_generate_and_tokens_that_are_hidden_later(name: str, hidden: bool) -> None:
    model = tiny_model(name)
    with illava.accelerate(model, method_of(name)):
        want, logits = chat(model, None, hidden)
        got, static = chat(model, static_cache(model), hidden)
    assert torch.equal(got, want)
    torch.testing.assert_close(static, logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llava", "internvl", "llava_onevision"])
def test_a_padded_turn_token_by_token(name: str) -> None:
    model = tiny_model(name)
    inputs = inputs_of(model, "one", "batch")
    turn, real = torch.arange(21, 30).view(3, 3), torch.tensor(PAST)
    found = []
    with illava.accelerate(model, method_of(name)), torch.no_grad():
        for cache in (None, static_cache(model)):
            out = model(**inputs, past_key_values=cache, use_cache=True)
            logits, mask = [], inputs["attention_mask"]
            for at in range(3):
                mask = torch.cat([mask, real[:, at : at + 1]], 1)
                step = dict(input_ids=turn[:, at : at + 1], attention_mask=mask)
                logits.append(model(**step, past_key_values=out.past_key_values).logits[real[:, at] > 0])
            found.append(torch.cat(logits))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=0)


def test_a_copy_belongs_to_the_same_acceleration() -> None:
    model = tiny_model("llava")
    token = torch.tensor([[5]])
    with torch.no_grad(), illava.accelerate(model, method_of("llava")):
        out = model(**inputs_of(model, "one", "single"), past_key_values=static_cache(model))
        copied = copy.deepcopy(out.past_key_values)
        want = model(input_ids=token, past_key_values=out.past_key_values).logits
        assert torch.equal(model(input_ids=token, past_key_values=copied).logits, want)
        again = copy.deepcopy(copied)
    with torch.no_grad(), pytest.raises(illava.UnsupportedError, match="can only be used while it is"):
        model(input_ids=token, past_key_values=again)


def test_text_in_a_cache_that_was_merged_once() -> None:
    model = tiny_model("llava")
    text = prompt(model, [([5, 6, 7], [])])
    want, _ = generated(model, text, past_key_values=static_cache(model))
    cache = static_cache(model)
    with illava.accelerate(model, method_of("llava")):
        generated(model, inputs_of(model, "one", "single"), past_key_values=cache)
        cache.reset()
        assert torch.equal(generated(model, text, past_key_values=cache)[0], want)
        cache.reset()
        got, _ = generated(model, inputs_of(model, "two", "single"), past_key_values=cache)
        fresh, _ = generated(model, inputs_of(model, "two", "single"))
        torch.testing.assert_close(got, fresh, atol=1e-5, rtol=0)
    cache.reset()
    assert torch.equal(generated(model, text, past_key_values=cache)[0], want)


def test_prompts_of_other_lengths_use_the_same_code_and_the_same_tensors() -> None:
    model = tiny_model("qwen2_vl")
    config = CompileConfig(backend="eager", fullgraph=True, mode=None, dynamic=False)
    config._compile_all_devices = True
    cache = static_cache(model, 256)
    places, rooms = [], []
    with illava.accelerate(model, illava.Illava(encoder_layers=(1,), encoder_keep=0.5, llm_layers=())):
        counters.clear()
        for shown in ("one", "two", "one"):
            inputs = inputs_of(model, shown, "single")
            want, _ = generated(model, inputs)
            got, _ = generated(model, inputs, past_key_values=cache, compile_config=config)
            torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
            layer = cache.layers[0]
            tensors = (layer.keys, layer.values, layer.real, layer.cumulative_length, layer.columns_dropped)
            places.append([tensor.data_ptr() for tensor in tensors])
            rooms.append(layer.keys.shape[2])
            cache.reset()
        assert counters["stats"]["unique_graphs"] == 1
    assert len(set(rooms)) == 1
    assert places[0] == places[1] == places[2]


def test_another_method_on_the_same_cache() -> None:
    """Layers that held the same tokens before may hold different ones now, and the other way round."""
    model = tiny_model("llava")
    inputs = inputs_of(model, "two", "batch")
    cache = static_cache(model, 400)
    late = illava.Illava(encoder_layers=(), llm_layers=(3,), llm_keep=0.9)
    early = illava.Illava(encoder_layers=(), llm_layers=(2,), llm_keep=0.9)
    for method in (late, early, ENCODER, late):
        with illava.accelerate(model, method):
            want, _ = generated(model, inputs)
            got, _ = generated(model, inputs, past_key_values=cache)
            torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
            cache.reset()
