"""Models as embedders: pooled hidden states of the bare model, with the report's columns as the mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import illava
from tests.battery.test_battery import method_of
from tests.comparing import BOTH, TEXT, model_of, plan_of
from tests.reference import run
from tests.test_exact import batch_rows
from tests.test_heads import build
from tests.tiny import pictures, prompt, tiny_model

NAMES = ("llava", "qwen2_vl", "internvl", "gemma3")


def mean(states: Tensor, columns: Tensor) -> Tensor:
    """(B, d): the average of (B, n, d) states over the tokens that are not padding."""
    real = (columns >= 0)[..., None].to(states)
    return (states * real).sum(1) / real.sum(1)


def turned(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same batch with its padding on the right."""
    out = dict(inputs)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            pads = (inputs["attention_mask"] == 0).sum(1).tolist()
            out[name] = torch.stack([row.roll(-n) for row, n in zip(inputs[name], pads, strict=True)])
    return out


def of_base(model: nn.Module, bare: bool) -> nn.Module:
    return model.model if bare else model


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl"])
def test_both_poolings_are_those_of_the_method_in_loops(family):
    model = model_of(family)
    rows = [(TEXT[:3], pictures(tiny_model(family), 2)[:1]), (TEXT, pictures(tiny_model(family), 2)[1:])]
    inputs = prompt(model, rows)
    inputs = {name: v.to(model.dtype) if v.is_floating_point() else v for name, v in inputs.items()}
    with torch.no_grad(), illava.accelerate(model, illava.Illava(**BOTH)) as handle:
        states = model.model(**inputs).last_hidden_state
        averages = mean(states, handle.report.columns[-1])
    for row, (_, parts) in enumerate(rows):
        ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()].tolist()
        naive = run(model, ids, [part.values for part in parts], plan_of(BOTH), len(ids))
        left = naive.left[[token for token, lives in enumerate(naive.alive) if lives]]
        torch.testing.assert_close(states[row, -1], left[-1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(averages[row], left.mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bare", [False, True], ids=["headed", "bare"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_pools_as_its_rows(name, bare, side):
    """Whichever of the two models was accelerated, and wherever the padding is."""
    model = tiny_model(name)
    rows = batch_rows(model)[:2]
    inputs = prompt(model, rows)
    if side == "right":
        inputs = turned(inputs)
    with torch.no_grad(), illava.accelerate(of_base(model, bare), method_of(name)) as handle:
        states = model.model(**inputs).last_hidden_state
        columns = handle.report.columns[-1]
        assert columns.shape == states.shape[:2]
        assert columns.shape[1] < inputs["input_ids"].shape[1]
        together, last = mean(states, columns), columns.argmax(1)
        for row, alone in enumerate(rows):
            single = model.model(**prompt(model, [alone])).last_hidden_state
            torch.testing.assert_close(together[row], single[0].mean(0), atol=1e-5, rtol=0)
            torch.testing.assert_close(states[row, last[row]], single[0, -1], atol=1e-5, rtol=0)


def test_a_text_alone_is_pooled_as_by_the_plain_model():
    model = tiny_model("qwen2_vl")
    text = prompt(model, [([5, 6, 7], []), ([8, 9, 10, 11], [])])
    with torch.no_grad():
        plain = model.model(**text).last_hidden_state
        with illava.accelerate(model, method_of("qwen2_vl")) as handle:
            assert torch.equal(model.model(**text).last_hidden_state, plain)
            with pytest.raises(ValueError, match="no report yet"):
                _ = handle.report


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_head_around_an_accelerated_model_reads_by_the_columns(side):
    """The head of transformers would read the place that the last token has in the full prompt."""
    head = build("gemma3", "Gemma3ForSequenceClassification").eval()
    rows = batch_rows(tiny_model("gemma3"))[:2]
    inputs = prompt(tiny_model("gemma3"), rows)
    if side == "right":
        inputs = turned(inputs)
    with torch.no_grad():
        with pytest.raises(illava.UnsupportedError, match="Gemma3ForSequenceClassification"):
            illava.accelerate(head, method_of("gemma3"))
        with illava.accelerate(head.model, keep=1.0) as handle:
            expected = head(**inputs).logits
            states = head.model(**inputs).last_hidden_state
            last = handle.report.columns[-1].argmax(1)
            torch.testing.assert_close(head.score(states[range(2), last]), expected, atol=1e-5, rtol=0)
