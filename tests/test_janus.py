"""Janus also draws pictures, in a mode of its own ``generate``: an accelerated model draws the same ones."""

from __future__ import annotations

import torch

import illava
from tests.tiny import pictures, prompt, tiny_model

METHOD = illava.Illava(encoder_layers=(1,), encoder_keep=0.5, llm_layers=(2,), llm_keep=0.5)


def test_drawing_is_as_without_a_method() -> None:
    model = tiny_model("janus")
    model.generation_config.generation_kwargs = {"boi_token_id": 92}
    ids = torch.tensor([[1, 5, 6, 7]])
    options = dict(generation_mode="image", do_sample=False, guidance_scale=5)

    def drawn() -> torch.Tensor:
        return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)

    asked = prompt(model, [([5, 6, 7], pictures(model, 1))])
    expected = drawn()
    with illava.accelerate(model, METHOD) as handle:
        assert torch.equal(drawn(), expected)
        model.generate(**asked, max_new_tokens=2)
        assert handle.report.final_tokens < handle.report.visual_tokens
        assert torch.equal(drawn(), expected), "after a prompt with a picture"
    assert expected.shape == (1, 4)
