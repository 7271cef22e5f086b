"""The method that docs/adding-a-method.md shows, run as it stands there."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch

import illava
from illava.methods import base
from tests.tiny import IMAGE, pictures, prompt, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"


@pytest.fixture
def method(monkeypatch):
    monkeypatch.setattr(base, "_METHODS", dict(base._METHODS))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    # Dataclasses look their module up.
    monkeypatch.setitem(sys.modules, "shown", types.ModuleType("shown"))
    names: dict = {"__name__": "shown"}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["Largest"]


def through(model, inputs):
    """Logits, and the embeddings that the language model got."""
    seen = []
    hook = model.model.get_submodule("language_model").register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"][0]), with_kwargs=True
    )
    logits = model(**inputs).logits
    hook.remove()
    return logits, seen[0]


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_vl", "internvl", "gemma3", "qwen3_5"])
def test_the_shown_method_keeps_the_largest(family, method):
    model = tiny_model(family)
    seen = pictures(model, 2)
    inputs = prompt(model, [([5, 6, 7, 8], seen)])
    plain, whole = through(model, inputs)
    with illava.accelerate(model, method(keep=0.4)) as handle:
        left = through(model, inputs)[1]
        report = handle.report
    expected = []
    ids = inputs["input_ids"][0].tolist()
    place = 0
    while place < len(ids):
        end = place + 1
        if ids[place] == IMAGE:
            while end < len(ids) and ids[end] == IMAGE:
                end += 1
            ranked = sorted(range(place, end), key=lambda i: -float(whole[i].norm()))
            expected += sorted(ranked[: max(1, round(0.4 * (end - place)))])
        else:
            expected.append(place)
        place = end
    assert torch.equal(left, whole[expected])
    assert report.final_tokens == sum(ids[i] == IMAGE for i in expected)
    assert torch.equal(model(**inputs).logits, plain)
    with illava.accelerate(model, method(keep=1.0)):
        assert torch.equal(model(**inputs).logits, plain)
