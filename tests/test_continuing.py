"""Going on from a merged cache with several tokens at once: another turn of a chat, assisted decoding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

import illava
from tests.battery.test_battery import method_of
from tests.test_exact import Dictate, batch, logits_of_steps, single
from tests.tiny import IMAGE, tiny_model

NAMES = (
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
    "internvl",
    "gemma3",
    "paligemma",
    "llava-windows",
)
every_model = pytest.mark.parametrize("name", NAMES)
STEPS, FIRST, NEW = 8, 2, 3


def dictated(model: nn.Module, inputs: dict[str, Tensor], length: int, steps: int, **options):
    options["logits_processor"] = [Dictate(length)]
    with torch.no_grad():
        return model.generate(
            **inputs,
            max_new_tokens=steps,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )


def next_turn(inputs: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """The same chat with ``ids`` instead of its prompt, without the pictures, which the cache holds."""
    grown = ids.shape[1] - inputs["input_ids"].shape[1]
    turn = {"input_ids": ids}
    for name, filling in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in inputs:
            turn[name] = nn.functional.pad(inputs[name], (0, grown), value=filling)
    return turn


@every_model
@pytest.mark.parametrize("make", [single, batch])
def test_a_turn_at_once_equals_the_turn_token_by_token(name, make):
    model = tiny_model(name)
    inputs = make(model)
    length = inputs["input_ids"].shape[1]
    close = 1e-3 if name == "qwen3_5" else 1e-5
    with illava.accelerate(model, method_of(name)):
        one_by_one, _ = logits_of_steps(model, inputs, steps=STEPS)
        before = dictated(model, inputs, length, FIRST)
        said = torch.tensor([3 + 17 * step % 80 for step in range(FIRST, FIRST + NEW)])
        ids = torch.cat([before.sequences, said.expand(len(before.sequences), -1)], 1)
        rest = STEPS - FIRST - NEW
        cache = before.past_key_values
        for held in (copy.deepcopy(cache), cache):
            after = dictated(model, next_turn(inputs, ids), length, rest, past_key_values=held)
            torch.testing.assert_close(
                torch.stack(after.logits), one_by_one[FIRST + NEW :], atol=close, rtol=0
            )


# Not Qwen's: transformers looks for the pictures of new placeholders itself, to work positions out.
@pytest.mark.parametrize("name", ["llava_onevision", "internvl"])
def test_candidates_may_hold_placeholders(name):
    """They stand for no picture, and every one of them has to be judged."""
    model = tiny_model(name)
    model.generation_config.suppress_tokens = None
    inputs = single(model)
    length = inputs["input_ids"].shape[1]
    start = int((inputs["input_ids"][0] == IMAGE).nonzero()[0])
    # What stands before the picture, so that lookup goes on with its placeholders.
    before = inputs["input_ids"][0, start - 2 : start].tolist()
    options = dict(max_new_tokens=8, do_sample=False, logits_processor=[Begin(length, before)])
    with illava.accelerate(model, method_of(name)), torch.no_grad():
        alone = model.generate(**inputs, **options)
        helped = model.generate(**inputs, **options, prompt_lookup_num_tokens=4)
        cache = model(**inputs, use_cache=True).past_key_values
        said = torch.tensor([[5, IMAGE, IMAGE, 7]])
        mask = torch.ones(1, length + 4, dtype=torch.long)
        logits = model(input_ids=said, attention_mask=mask, past_key_values=cache).logits
    assert alone[0, length : length + 2].tolist() == before
    assert torch.equal(helped, alone)
    assert logits.shape[1] == 4


class Begin(LogitsProcessor):
    """Makes a generated text begin with given tokens."""

    def __init__(self, length, tokens):
        self.length, self.tokens = length, tokens

    def __call__(self, input_ids, scores):
        place = input_ids.shape[1] - self.length
        if place < len(self.tokens):
            scores = torch.full_like(scores, -1e4)
            scores[:, self.tokens[place]] = 0
        return scores


def test_an_assisted_text_leaves_nothing_behind():
    model = tiny_model("internvl")
    inputs = single(model)
    text = torch.full((1, inputs["input_ids"].shape[1] - 3), 5)
    with illava.accelerate(model, method_of("internvl")), torch.no_grad():
        expected = model(**inputs).logits
        model.generate(
            input_ids=text, attention_mask=torch.ones_like(text), max_new_tokens=3, prompt_lookup_num_tokens=2
        )
        assert torch.equal(model(**inputs).logits, expected)


# Not PaliGemma: without any merging an assistant changes what it writes, for lack of token types.
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "qwen3_vl", "internvl"])
@pytest.mark.parametrize("how", ["prompt lookup", "assistant"])
def test_assisted_decoding_writes_what_plain_decoding_writes(name, how):
    """Greedy decoding, several tokens proposed at once, of which wrong ones are taken back."""
    model = tiny_model(name)
    inputs = single(model)
    length = inputs["input_ids"].shape[1]
    assisted = {"prompt_lookup_num_tokens": 3}
    if how == "assistant":
        assisted = {"assistant_model": copy.deepcopy(model)}
        # A different one, or all it proposes would be right.
        with torch.no_grad():
            for parameter in assisted["assistant_model"].parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    options = dict(max_new_tokens=12, do_sample=False, output_logits=True, return_dict_in_generate=True)
    with illava.accelerate(model, method_of(name)), torch.no_grad():
        alone = model.generate(**inputs, **options)
        helped = model.generate(**inputs, **options, **assisted)
    assert torch.equal(helped.sequences[:, length:], alone.sequences[:, length:])
    torch.testing.assert_close(torch.stack(helped.logits), torch.stack(alone.logits), atol=1e-5, rtol=0)
