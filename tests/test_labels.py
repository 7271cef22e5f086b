"""The loss of an accelerated model with labels, and its gradients, against references without any of it.

Two independent ways: the reference at full length, in which no token ever leaves a tensor, and the model's
own cache, to which the answer is given after the prompt, as in generation.
"""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import illava

from .reference import Plan, trained
from .tiny import IMAGE, Picture, pictures, prompt, tiny_model, video, video_prompt

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
FAMILIES = (*QWEN, "llava", "llava_onevision", "internvl", "mistral3", "gemma3")
BOTH = dict(encoder_layers=(1, 3), encoder_keep=0.7, llm_layers=(2, 4), llm_keep=0.6)
QUESTIONS, ANSWERS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16]], [[41, 42, 43], [44], [45, 46]]
Row = tuple[list[int], list[Picture], list[int]]
"""A question, its pictures, and the answer."""


def rows_of(model: nn.Module) -> list[Row]:
    """Two pictures, one, and none."""
    drawn = pictures(model, 3)
    return [
        (QUESTIONS[0], drawn[:2], ANSWERS[0]),
        (QUESTIONS[1], drawn[2:], ANSWERS[1]),
        (QUESTIONS[2], [], ANSWERS[2]),
    ]


def inputs_of(model: nn.Module, rows: list[Row], side: str = "left") -> dict[str, Tensor]:
    """A batch with the answers as labels, padded on one side."""
    inputs = prompt(model, [(question + answer, parts) for question, parts, answer in rows])
    inputs["labels"] = torch.full_like(inputs["input_ids"], -100)
    for row, (_, _, answer) in enumerate(rows):
        inputs["labels"][row, -len(answer) :] = torch.tensor(answer)
    if model.config.model_type == "paligemma":
        # Its prompts attend bidirectionally, its answers causally.
        inputs["token_type_ids"] = (inputs["labels"] != -100).long()
    if side == "right":
        for name, value in inputs.items():
            if value.shape == inputs["input_ids"].shape and name != "attention_mask":
                lengths = inputs["attention_mask"].sum(1).tolist()
                inputs[name] = torch.stack(
                    [one.roll(length, 0) for one, length in zip(value, lengths, strict=True)]
                )
        inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    return inputs


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def compare(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-5) -> None:
    """All gradients of a kind that both have; the embedding's also has rows of filler, which are zero."""
    assert found.keys() == expected.keys()
    assert sum(bool(gradient.any()) for gradient in found.values()) > len(found) / 2
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(found[name], gradient.to(found[name]), atol=atol * scale, rtol=0, msg=name)


def fed(model: nn.Module, inputs: dict[str, Tensor], answer: list[int]) -> Tensor:
    """The sum of an answer's losses, without labels: it is fed to the cache after the prompt."""
    # Qwen's offset of positions, which its forward keeps of an earlier prompt with pictures.
    model.model.rope_deltas = None
    filled = model(**inputs, use_cache=True)
    name = "cache" if "cache" in filled else "past_key_values"
    logits = [filled.logits[:, -1:]]
    for token in answer[:-1]:
        more = {"input_ids": torch.tensor([[token]]), name: filled[name]}
        if "token_type_ids" in inputs:
            more["token_type_ids"] = torch.zeros_like(more["input_ids"])
        logits.append(model(**more, use_cache=True).logits)
    return cross_entropy(torch.cat(logits, 1)[0], torch.tensor(answer), reduction="sum")


def by_cache(model: nn.Module, rows: list[Row], total: int = 0) -> Tensor:
    """The mean loss of all answers, each row alone."""
    losses = [fed(model, prompt(model, [(question, parts)]), answer) for question, parts, answer in rows]
    return torch.stack(losses).sum() / (total or sum(len(answer) for _, _, answer in rows))


@pytest.mark.parametrize("reduce", ["drop", "weighted"])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_are_those_of_the_reference_at_full_length(name: str, reduce: str) -> None:
    model = tiny_model(name)
    rows = rows_of(model)
    plan = Plan(encoder={1: 0.7, 3: 0.7}, llm={2: 0.6, 4: 0.6}, reduce=reduce)
    double, losses = copy.deepcopy(model).double(), []
    for question, parts, answer in rows:
        ids = prompt(model, [(question + answer, parts)])["input_ids"][0]
        values = [part.values for part in parts]
        whole = trained(double, ids.tolist(), values, plan, len(ids) - len(answer))
        losses.append(
            cross_entropy(whole.logits[-len(answer) - 1 : -1], ids[-len(answer) :], reduction="sum")
        )
    expected = torch.stack(losses).sum() / sum(len(answer) for _, _, answer in rows)
    with illava.accelerate(model, illava.Illava(**BOTH, reduce=reduce)) as handle:
        found = model(**inputs_of(model, rows)).loss
        assert handle.report.final_tokens < handle.report.visual_tokens
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    compare(gradients(model, found), gradients(double, expected))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3", "internvl", "paligemma"])
def test_loss_and_gradients_are_those_of_answers_fed_to_the_cache(name: str, side: str) -> None:
    """So the tokens kept in training are those kept in generation: the prompt's last token scores them."""
    model = tiny_model(name)
    rows = rows_of(model)
    with illava.accelerate(model, illava.Illava(**BOTH, reduce="fold", select="diverse")):
        expected = by_cache(model, rows)
        wanted = gradients(model, expected)
        found = model(**inputs_of(model, rows, side)).loss
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        compare(gradients(model, found), wanted)


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "qwen3_vl", "glm4v"])
def test_videos(name: str) -> None:
    model, answer = tiny_model(name), ANSWERS[0]
    inputs = video_prompt(model, QUESTIONS[0], pictures(model, 1), video(model, 3))
    if name == "glm4v":
        # It has pictures or videos, not both.
        inputs = video_prompt(model, QUESTIONS[0], [], video(model, 3))
    shape = inputs["input_ids"].shape
    longer = {
        name: pad(value, (0, len(answer))) if value.shape == shape else value
        for name, value in inputs.items()
    }
    longer["input_ids"][:, -len(answer) :] = torch.tensor(answer)
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    labels = torch.full_like(longer["input_ids"], -100)
    labels[:, -len(answer) :] = torch.tensor(answer)
    with illava.accelerate(model, illava.Illava(**BOTH)) as handle:
        expected = fed(model, inputs, answer) / len(answer)
        wanted = gradients(model, expected)
        found = model(**longer, labels=labels).loss
        assert handle.report.final_tokens < handle.report.visual_tokens
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        compare(gradients(model, found), wanted)


def test_a_trainer_divides_by_its_own_number_of_tokens() -> None:
    model = tiny_model("qwen2_vl")
    rows = rows_of(model)
    with illava.accelerate(model, illava.Illava(**BOTH)), torch.no_grad():
        found = model(**inputs_of(model, rows), num_items_in_batch=torch.tensor(24)).loss
        torch.testing.assert_close(found, by_cache(model, rows, 24), atol=1e-5, rtol=0)


@pytest.mark.parametrize("visual", [False, True])
def test_every_token_may_have_a_label(visual: bool) -> None:
    """Each is predicted by the nearest token before it that is left, and a row's first token by no filler.

    Labels of dropped placeholders, which TRL's collator sets for whole conversations, go with them. Such
    labels do not tell where the prompt ends, so the last token of a row scores its pictures.
    """
    model = tiny_model("qwen2_vl")
    rows, plan = rows_of(model), Plan(encoder={1: 0.7, 3: 0.7}, llm={2: 0.6, 4: 0.6})
    inputs = inputs_of(model, rows)
    ids = inputs["input_ids"]
    inputs["labels"] = labels = ids.masked_fill(
        ((ids == IMAGE) & (not visual)) | (inputs["attention_mask"] == 0), -100
    )
    before, double, losses = labels.clone(), copy.deepcopy(model).double(), []
    for question, parts, answer in rows:
        own = prompt(model, [(question + answer, parts)])["input_ids"][0].tolist()
        whole = trained(double, own, [part.values for part in parts], plan, len(own))
        for token in range(1, len(own)):
            left = max(i for i in range(token) if whole.alive[i])
            if own[token] != IMAGE or (visual and whole.alive[token]):
                losses.append(cross_entropy(whole.logits[left], torch.tensor(own[token])))
    expected = torch.stack(losses).mean()
    with illava.accelerate(model, illava.Illava(**BOTH)):
        found = model(**inputs)
        assert found.logits.shape[1] < ids.shape[1]
    assert torch.equal(labels, before), "the caller's own are as they were"
    torch.testing.assert_close(found.loss.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: i["labels"].masked_fill_(i["attention_mask"] == 0, 0), "padding tokens have a label"),
        (lambda i: i.update(shift_labels=i["labels"]), "shift_labels"),
        (lambda i: i.update(labels=i["labels"][:, 1:]), "shape of input_ids"),
        (lambda i: i.update(labels=i["labels"][:, 0]), "one for each token"),
    ],
    ids=["padding", "shifted", "shape", "one a row"],
)
def test_other_labels_are_refused(change, words: str) -> None:
    model = tiny_model("qwen2_vl")
    inputs = inputs_of(model, rows_of(model))
    change(inputs)
    with (
        illava.accelerate(model, illava.Illava(**BOTH)),
        pytest.raises((illava.UnsupportedError, ValueError), match=words) as error,
    ):
        model(**inputs)
    assert "\n" not in str(error.value)


def test_labels_by_position() -> None:
    model = tiny_model("llava")
    inputs = inputs_of(model, rows_of(model))
    names = [*inspect.signature(model.forward).parameters]
    names = names[: names.index("labels") + 1]
    with illava.accelerate(model, illava.Illava(**BOTH)), torch.no_grad():
        expected = model(**inputs).loss
        assert torch.equal(model(*[inputs.get(name) for name in names]).loss, expected)
