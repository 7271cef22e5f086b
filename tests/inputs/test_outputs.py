"""Hidden states, attentions, logits of some tokens: what each is of, against the method written in loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import illava
from tests.battery.test_battery import method_of
from tests.comparing import BOTH, CLOSE, ENCODER, LLM, NEAR, TEXT, model_of, plan_of
from tests.reference import run
from tests.test_exact import batch, single
from tests.tiny import pictures, prompt, tiny_model

EVERYTHING = dict(output_hidden_states=True, output_attentions=True)
NAMES = ("llava", "qwen2_vl", "qwen3_vl", "internvl", "gemma3")


def in_double(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: v.to(model.dtype) if v.is_floating_point() else v for name, v in inputs.items()}


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl"])
@pytest.mark.parametrize("settings", [BOTH, ENCODER, LLM], ids=["both", "encoder", "llm"])
def test_hidden_states_and_attentions_are_those_of_the_tokens_that_the_report_names(family, settings):
    model = model_of(family, "eager")
    parts = pictures(tiny_model(family), 1)
    inputs = in_double(model, prompt(model, [(TEXT, parts)]))
    with torch.no_grad(), illava.accelerate(model, illava.Illava(**settings)) as handle:
        out = model(**inputs, **EVERYTHING)
        columns = handle.report.columns
    ids = inputs["input_ids"][0].tolist()
    naive = run(model, ids, [part.values for part in parts], plan_of(settings), len(ids))
    depth = len(naive.layers)
    assert len(columns) == len(out.attentions) == len(out.hidden_states) - 1 == depth
    assert len({stage.shape for stage in columns}) == 1 + len(settings["llm_layers"])
    for index, (alive, given, weights) in enumerate(naive.layers):
        left = [token for token, lives in enumerate(alive) if lives]
        assert columns[index].tolist() == [left]
        if index + 1 < depth:
            near(out.hidden_states[index + 1][0], given[left])
        for head, expected in enumerate(weights):
            near(out.attentions[index][0, head], expected[left][:, left])
    near(out.hidden_states[0][0], naive.entered[columns[0][0]])
    near(out.hidden_states[-1][0], naive.left[columns[-1][0]])
    near(out.logits[0], naive.logits[columns[-1][0]])


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=CLOSE, rtol=NEAR)


# The others collect the one that they use, or none.
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen3_vl"])
def test_the_encoders_hidden_states_are_what_its_blocks_get(name):
    """Also where hooks that collect them were there before."""
    model = tiny_model(name, "eager")
    inputs = single(model)
    with torch.no_grad():
        before = model(**inputs, **EVERYTHING).image_outputs
        with illava.accelerate(model, method_of(name)) as handle:
            got = []
            hooks = [
                block.register_forward_pre_hook(lambda _, args, kwargs: got.append(args[0]), with_kwargs=True)
                for block in handle.modules.blocks
            ]
            after = model(**inputs, **EVERYTHING).image_outputs
            for hook in hooks:
                hook.remove()
    assert len(after.hidden_states) == len(before.hidden_states) == len(got) + 1
    for found, expected in zip(after.hidden_states, got, strict=False):
        assert torch.equal(found, expected)
    assert after.hidden_states[-1].numel() < before.hidden_states[-1].numel()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [single, batch])
def test_nothing_changes_at_keep_one(name, make):
    model = tiny_model(name, "eager")
    inputs = make(model)
    with torch.no_grad():
        plain = model(**inputs, **EVERYTHING)
        with illava.accelerate(model, keep=1.0) as handle:
            kept = model(**inputs, **EVERYTHING)
            columns = handle.report.columns
    for field in ("hidden_states", "attentions"):
        for one, other in zip(kept[field], plain[field], strict=True):
            assert torch.equal(one, other)
    places = torch.arange(inputs["input_ids"].shape[1]).expand_as(inputs["input_ids"])
    for stage in columns:
        assert torch.equal(stage, places.where(inputs["attention_mask"].bool(), -1))


@pytest.mark.parametrize("name", NAMES)
def test_generate_returns_them_step_by_step(name):
    model = tiny_model(name, "eager")
    inputs = batch(model)
    options = dict(max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    options |= dict(output_scores=True, output_logits=True, **EVERYTHING)
    with torch.no_grad(), illava.accelerate(model, method_of(name)) as handle:
        forward = model(**inputs, **EVERYTHING)
        out = model.generate(**inputs, **options)
        left = [stage.shape[1] for stage in handle.report.columns]
    for field in ("hidden_states", "attentions"):
        assert len(out[field]) == 3
        for one, other in zip(out[field][0], forward[field], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    for step in (1, 2):
        assert {state.shape[1] for state in out.hidden_states[step]} == {1}
        assert [weights.shape[-1] for weights in out.attentions[step]] == [n + step for n in left]
        torch.testing.assert_close(
            model.lm_head(out.hidden_states[step][-1])[:, 0], out.logits[step], atol=1e-5, rtol=0
        )
    for scores, logits in zip(out.scores, out.logits, strict=True):
        allowed = scores.isfinite()
        assert torch.equal(scores[allowed], logits[allowed])


def test_some_of_the_hidden_states():
    model = tiny_model("qwen2_vl")
    inputs = single(model)
    with torch.no_grad(), illava.accelerate(model, method_of("qwen2_vl")):
        every = model(**inputs, output_hidden_states=True).hidden_states
        some = model(**inputs, output_hidden_states=[0, -1]).hidden_states
    assert [state is not None for state in some] == [True, *[False] * (len(every) - 2), True]
    assert torch.equal(some[0], every[0])
    assert torch.equal(some[-1], every[-1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [single, batch])
def test_logits_of_the_last_tokens(name, make):
    model = tiny_model(name)
    inputs = make(model)
    with torch.no_grad(), illava.accelerate(model, method_of(name)):
        whole = model(**inputs).logits
        for count in (1, 3, 1000):
            last = model(**inputs, logits_to_keep=count).logits
            torch.testing.assert_close(last, whole[:, -count:], atol=1e-5, rtol=0)
        assert torch.equal(model(**inputs, logits_to_keep=0).logits, whole)


@pytest.mark.parametrize("places", [[0, 5], range(3), slice(0, 3), torch.tensor([2])], ids=str)
def test_logits_at_positions_are_refused_with_pictures(places):
    model = tiny_model("qwen2_vl")
    inputs, text = single(model), prompt(model, [([5, 6, 7, 8, 9], [])])
    with torch.no_grad():
        plain = model(**text, logits_to_keep=places).logits
        with illava.accelerate(model, method_of("qwen2_vl")):
            assert torch.equal(model(**text, logits_to_keep=places).logits, plain)
            with pytest.raises(illava.UnsupportedError, match="logits_to_keep") as error:
                model(**inputs, logits_to_keep=places)
    assert "\n" not in str(error.value)
