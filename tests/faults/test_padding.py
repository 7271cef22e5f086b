"""Padding behind a row stays behind it, so that the last logits of a batch are those of the same tokens.

Preference trainers put completions of unequal length behind left-padded prompts and read ``C + 1`` positions.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import illava
from tests.battery.test_battery import CLOSE, method_of
from tests.tiny import ALL, PAD, pictures, prompt, tiny_model

COMPLETIONS = [[20, 21, 22, 23], [30, 31]]
TEXTS = [[5, 6, 7, 8], [9, 10]]


def completed(inputs, completions, width):
    """The batch with completions behind its prompts, padded on the right to ``width``."""
    out = dict(inputs)
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in completions])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in completions])
    out["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
    out["attention_mask"] = torch.cat([inputs["attention_mask"], mask], 1)
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in out:
            out[name] = torch.cat([out[name], torch.zeros_like(ids).to(out[name].dtype)], 1)
    return out


def log_probs(model, inputs, completions, width, **options):
    """The log-probabilities of each completion's tokens, read at the last ``width + 1`` positions."""
    with torch.no_grad():
        logits = model(**inputs, **options).logits[:, -(width + 1) : -1].float().log_softmax(-1)
    return [logits[i, range(len(row)), row] for i, row in enumerate(completions)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ALL)
def test_log_probabilities_of_a_padded_batch(name, attention):
    model, width = tiny_model(name, attention), len(COMPLETIONS[0])
    parts = pictures(model, 2)
    rows = [(text, [part]) for text, part in zip(TEXTS, parts, strict=True)]
    inputs = completed(prompt(model, rows), COMPLETIONS, width)
    with illava.accelerate(model, method_of(name)):
        found = log_probs(model, inputs, COMPLETIONS, width)
        kept = log_probs(model, inputs, COMPLETIONS, width, logits_to_keep=width + 1)
        uncached = log_probs(model, inputs, COMPLETIONS, width, use_cache=False)
        for i, completion in enumerate(COMPLETIONS):
            alone = completed(prompt(model, rows[i : i + 1]), [completion], len(completion))
            (expected,) = log_probs(model, alone, [completion], len(completion))
            for one in (found[i], kept[i], uncached[i]):
                torch.testing.assert_close(one, expected, atol=CLOSE.get(name, 1e-4), rtol=0)


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_onevision", "gemma3", "llava-windows"])
def test_the_plain_models_places(name):
    """Nothing but padding goes: keep=1 in every step but one that drops a single token of the first row."""
    model, width = tiny_model(name), len(COMPLETIONS[0])
    rows = [(TEXTS[0], pictures(model, 1)), (TEXTS[1], [])]
    inputs = completed(prompt(model, rows), COMPLETIONS, width)
    plain = log_probs(model, inputs, COMPLETIONS, width)
    with illava.accelerate(model, method_of(name)):
        merged = log_probs(model, inputs, COMPLETIONS, width)
    # The row without a picture is the plain model's.
    torch.testing.assert_close(merged[1], plain[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["qwen2_vl", "llava"])
def test_decoding_behind_padding(name):
    """Right-padded prompts, as the plain model takes them: the next token stands behind the padding."""
    model = tiny_model(name)
    rows = [(TEXTS[0], pictures(model, 1)), (TEXTS[1], pictures(model, 1, seed=3))]
    single = [prompt(model, [row]) for row in rows]
    length = max(one["input_ids"].shape[1] for one in single)
    batch = prompt(model, rows)
    for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if key in batch:
            batch[key] = torch.cat(
                [nn.functional.pad(one[key], (0, length - one[key].shape[1])) for one in single]
            )
    with illava.accelerate(model, method_of(name)), torch.no_grad():
        out = model(**batch, use_cache=True)
        cache = out["past_key_values"]
        assert cache.get_seq_length() == length
        for i, one in enumerate(single):
            n = one["input_ids"].shape[1]
            alone = model(**one).logits[0, -1]
            here = out.logits[i, -1 - (length - n)]
            torch.testing.assert_close(here, alone, atol=1e-4, rtol=0)
