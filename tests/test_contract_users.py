"""Classes and functions that users put in the place of transformers' own are no fault of the contract."""

from __future__ import annotations

from types import MethodType

import pytest
import torch

import illava
from tests.renaming import cache_name, method_of
from tests.test_exact import single
from tests.tiny import tiny_model


def kinds_of(model):
    llava, attention = type(model), type(model.model.language_model.layers[0].self_attn)

    class Keywords(llava):
        def forward(self, **kwargs):
            return super().forward(**kwargs)

    class Further(llava):
        def forward(self, input_ids=None, *, mine=None, **kwargs):
            return super().forward(input_ids, **kwargs)

    class Generates(llava):
        def generate(self, **kwargs):
            return super().generate(**kwargs)

    class Attends(attention):
        def forward(self, hidden_states, **kwargs):
            return super().forward(hidden_states=hidden_states, **kwargs)

    return Keywords, Further, Generates, Attends


def kernel(
    self, input_ids=None, pixel_values=None, attention_mask=None, inputs_embeds=None, labels=None, **kwargs
):
    """A forward of the head as kernels for training bring it along; the cache is among ``kwargs``."""
    outputs = self.model(
        input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask, **kwargs
    )
    return type("Output", (), {"logits": self.lm_head(outputs[0])})()


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_users_own_classes_and_functions_work(number, attention):
    model = tiny_model("llava", attention)
    inputs = single(model)
    with torch.no_grad(), illava.accelerate(model, method_of("llava")):
        expected = model(**inputs).logits
    if number < 3:
        model.__class__ = kinds_of(model)[number]
    elif number == 3:
        for layer in model.model.language_model.layers:
            layer.self_attn.__class__ = kinds_of(model)[3]
    elif number == 4:
        for module in (model.model, model.model.language_model):
            forward = module.forward
            module.forward = lambda *args, forward=forward, **kwargs: forward(*args, **kwargs)
    else:
        name = cache_name(type(model).forward)
        space = {"kernel": kernel}
        names = f"input_ids=None, pixel_values=None, attention_mask=None, {name}=None"
        names += ", inputs_embeds=None, labels=None"
        exec(
            f"def with_cache(self, {names}, **kw):\n"
            "    return kernel(self, input_ids, pixel_values, attention_mask, inputs_embeds, labels, **kw)",
            space,
        )
        model.forward = MethodType(space["with_cache"], model)
    with torch.no_grad(), illava.accelerate(model, method_of("llava")) as handle:
        assert torch.equal(model(**inputs).logits, expected)
        assert handle.report.final_tokens < handle.report.visual_tokens
        positional = model.model(inputs["input_ids"], inputs["pixel_values"], inputs["attention_mask"])
        assert positional[0].isfinite().all()
