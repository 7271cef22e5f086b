"""Sliced products: the same numbers, on and off again, and only where they are meant to be."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import illava
from illava.runtime import linear_tuning as products
from illava.runtime.linear_tuning import sliced
from tests.test_exact import batch, single
from tests.test_handle import state_of
from tests.tiny import tiny_model


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 5), (0, 5)])
@pytest.mark.parametrize("width", [1, 3, 7, 8, 20])
@pytest.mark.parametrize("biased", [True, False])
def test_slices_are_the_whole_product(shape, width, biased):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator)
    weight = torch.randn(8, 5, generator=generator)
    bias = torch.randn(8, generator=generator) if biased else None
    with torch.no_grad():
        assert torch.allclose(sliced(x, weight, bias, width), F.linear(x, weight, bias), atol=1e-6)


@pytest.fixture
def always(monkeypatch):
    """Slices of a few features wherever a matrix is wider, and for every number of rows."""
    monkeypatch.setattr(products, "LEAST", 30)
    monkeypatch.setattr(products, "WIDTH", 20)
    monkeypatch.setattr(products, "ROWS", (8, 64, 4096))
    monkeypatch.setattr(products, "_choose", lambda module: (True,) * len(products.ROWS))


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_onevision", "internvl"])
def test_a_tuned_model_gives_the_same_logits_plain_and_merged(family, always, monkeypatch):
    model = tiny_model(family)
    inputs = batch(model)
    used = []
    monkeypatch.setattr(products, "sliced", lambda *args: used.append(args[0].shape) or sliced(*args))
    for method in (None, illava.Illava.best(1 / 3)):
        handle = illava.accelerate(model, method or illava.Illava(keep=1.0))
        with torch.no_grad():
            before = model(**inputs).logits
            with illava.tune(model) as tuned:
                assert tuned.choices
                after = model(**inputs).logits
        handle.remove()
        assert used
        assert torch.allclose(before, after, atol=1e-5)
        used.clear()


def test_removing_leaves_the_model_as_it_was(always):
    model = tiny_model("qwen2_vl")
    inputs, before = single(model), state_of(model)
    with torch.no_grad():
        plain = model(**inputs).logits
        tuned = illava.tune(model)
        with pytest.raises(ValueError, match="tuned already"):
            illava.tune(model)
        tuned.remove()
        tuned.remove()
        assert torch.equal(model(**inputs).logits, plain)
    assert state_of(model) == before


def test_gradients_go_the_usual_way(always, monkeypatch):
    monkeypatch.setattr(products, "sliced", lambda *args: pytest.fail("sliced with gradients"))
    model = tiny_model("qwen2_vl")
    with illava.tune(model):
        model(**single(model)).logits.sum().backward()
    assert any(p.grad is not None for p in model.parameters())


def test_half_decodes_as_a_model_whose_weights_are_rounded(always):
    model, rounded = tiny_model("qwen2_vl"), tiny_model("qwen2_vl")
    with torch.no_grad():
        for module in [*rounded.model.language_model.modules(), rounded.lm_head]:
            if type(module) is nn.Linear:
                module.weight.copy_(module.weight.half().float())
    inputs = single(model)
    with torch.no_grad():
        # Qwen2-VL notes at a prompt where its answer's positions begin.
        rounded(**inputs)
        cache = model(**inputs, use_cache=True).past_key_values
        other = model(**inputs, use_cache=True).past_key_values
        step = {"input_ids": torch.tensor([[7]])}
        with illava.tune(model, half=True):
            halved = model(**step, past_key_values=cache).logits
        expected = rounded(**step, past_key_values=other).logits
        plain = model(**step, past_key_values=model(**inputs, use_cache=True).past_key_values).logits
    # What enters a product is rounded as well.
    assert torch.allclose(halved, expected, atol=2e-2)
    assert not torch.equal(halved, plain)


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(illava.UnsupportedError, match="float32 weights on a CPU"):
        illava.tune(tiny_model("qwen2_vl").bfloat16())


def test_slices_are_chosen_where_they_are_faster(monkeypatch):
    times = iter([1.0, 0.5, 1.0, 0.99, 1.0, 2.0])
    monkeypatch.setattr(products, "_seconds", lambda run, repeats=2: next(times))
    assert products._choose(nn.Linear(4, 2000)) == (True, False, False)


def test_half_leaves_what_is_beyond_its_range_to_float32(always):
    model = tiny_model("qwen2_vl")
    with torch.no_grad():
        model.model.language_model.layers[1].mlp.up_proj.weight.mul_(1e5)
        cache = model(**single(model), use_cache=True).past_key_values
        with illava.tune(model, half=True):
            logits = model(input_ids=torch.tensor([[7]]), past_key_values=cache).logits
    assert logits.isfinite().all()


def test_half_notices_weights_that_changed(always):
    layer = nn.Linear(8, 40)
    stands_in = products._Forward(layer, (False,) * len(products.ROWS), True)
    x = torch.randn(1, 8)
    with torch.no_grad():
        assert not torch.equal(stands_in(x), F.linear(x, layer.weight, layer.bias))
        layer.weight.mul_(2)
        assert torch.equal(stands_in(x), F.linear(x, layer.weight, layer.bias))


def test_a_tuned_model_is_not_copied(always):
    model = tiny_model("qwen2_vl")
    with illava.tune(model), pytest.raises(illava.UnsupportedError, match="copied"):
        copy.deepcopy(model)
    copy.deepcopy(model)


def test_tuning_draws_nothing_and_leaves_autocast_alone(monkeypatch):
    monkeypatch.setattr(products, "LEAST", 30)
    model = tiny_model("qwen2_vl")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with illava.tune(model):
        assert torch.equal(torch.rand(3), expected)
    layer = nn.Linear(8, 40)
    stands_in = products._Forward(layer, (True,) * len(products.ROWS), False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert stands_in(torch.randn(4, 8)).dtype == torch.bfloat16
