"""Copies of a merged cache, however made, work with the model that made it and are refused by all others."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from transformers import DynamicCache, StaticCache

import illava
from tests.test_exact import BOTH, single
from tests.tiny import tiny_model


def saved(cache):
    stream = io.BytesIO()
    torch.save(cache, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


COPIES = {
    "itself": lambda cache: cache,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda cache: pickle.loads(pickle.dumps(cache)),
    "saved": saved,
}
TOKEN = torch.tensor([[7]])


def filled(model, static=False):
    inputs = single(model)
    cache = None
    if static:
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=100)
    with torch.no_grad():
        return model(**inputs, **cached(model, cache), use_cache=True)["past_key_values"]


def cached(model, cache):
    from illava.compat import cache_name

    return {cache_name(model): cache}


def step(model, cache):
    with torch.no_grad():
        return model(input_ids=TOKEN, **cached(model, cache)).logits


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_copies(make, static):
    model, other = tiny_model("qwen2_vl"), tiny_model("qwen2_vl")
    with illava.accelerate(model, BOTH):
        expected = step(model, filled(model, static))
        assert torch.equal(step(model, make(filled(model, static))), expected)
        for wrong in (other, tiny_model("llava")):
            with pytest.raises(illava.UnsupportedError, match="run the prompt again"):
                step(wrong, make(filled(model, static)))
        late, later = make(filled(model, static)), filled(model, static)
    for cache in (late, make(later)):
        with pytest.raises(illava.UnsupportedError, match="run the prompt again"):
            step(model, cache)
    with illava.accelerate(model, BOTH), pytest.raises(illava.UnsupportedError, match="run the prompt again"):
        step(model, make(later))


def test_a_pickle_in_another_process():
    from illava.runtime.hooks import Owner

    with illava.accelerate(model := tiny_model("qwen2_vl"), BOTH):
        stored = pickle.dumps(filled(model))
        # Another process knows nothing of this one's models.
        alive = dict(Owner._alive)
        Owner._alive.clear()
        try:
            loaded = pickle.loads(stored)
        finally:
            Owner._alive.update(alive)
        with pytest.raises(illava.UnsupportedError, match="run the prompt again"):
            step(model, loaded)


@pytest.mark.parametrize(
    "take", [list, lambda cache: DynamicCache(cache), lambda cache: DynamicCache(list(cache))]
)
def test_keys_and_values_alone(take):
    with illava.accelerate(model := tiny_model("qwen2_vl"), BOTH):
        cache = filled(model)
        with pytest.raises(illava.UnsupportedError, match="cannot be split"):
            take(cache)
    assert len(list(filled(model))) == len(model.model.language_model.layers)


def test_cropping_a_static_cache():
    """As far as nothing was dropped; the next tokens are as if the cropped ones had never been."""
    model = tiny_model("qwen2_vl")
    with illava.accelerate(model, BOTH):
        cache = filled(model, static=True)
        length = int(cache.get_seq_length())
        expected = step(model, cache)
        step(model, cache)
        for layer in cache.layers:
            layer.crop(-2)
        assert int(cache.get_seq_length()) == length
        assert torch.equal(step(model, cache), expected)
        with pytest.raises(illava.UnsupportedError, match="cropped"):
            cache.layers[0].crop(-length + 3)
        with pytest.raises(illava.UnsupportedError, match="cropped"):
            cache.layers[0].crop(2)
