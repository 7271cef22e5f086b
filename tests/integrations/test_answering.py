"""Answers and likelihoods for harnesses, against generate() and plain forwards."""

from __future__ import annotations

import copy

import pytest
import torch

import illava
from illava.evaluation.prompts import inputs_of
from illava.integrations.answering import Answerer, form
from illava.integrations.generation import read_generation

GREEDY = read_generation({}, 8)


def chat(sample, before=""):
    """One user turn: the pictures, then the question."""
    pictures = [{"type": "image", "image": picture} for picture in sample.pictures]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": before + sample.question}]}]


def generated(toy, sample, **options):
    """What generate() returns for one prompt, and the length of the prompt."""
    model, processor = toy
    inputs = inputs_of(model, processor, [sample])
    out = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=8,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return out, inputs["input_ids"].shape[1]


def test_answers_are_those_of_generate_and_tokens_are_counted(toy, merged, samples):
    answers = Answerer(merged, toy[1]).answer([chat(sample) for sample in samples], GREEDY)
    for sample, answer in zip(samples, answers, strict=True):
        out, length = generated(toy, sample)
        new = out.sequences[0, length:]
        assert answer.text == toy[1].tokenizer.decode(new, skip_special_tokens=True)
        assert (answer.prompt_tokens, answer.new_tokens) == (length, len(new))
        assert answer.visual_before == 144
        assert answer.visual_after == merged.report.final_tokens < 20
    # In one batch, but the shorter answers end where they end.
    assert len({answer.new_tokens for answer in answers}) > 1


def test_text_alone_has_no_visual_tokens(toy, merged):
    words = [{"role": "user", "content": [{"type": "text", "text": "What is red?"}]}]
    (answer,) = Answerer(merged, toy[1]).answer([words], GREEDY)
    assert (answer.visual_before, answer.visual_after) == (0, 0)
    assert form(words) == (False, False)


def test_a_stop_sequence_ends_the_answer_before_it(toy, merged, samples):
    answerer = Answerer(merged, toy[1])
    whole = answerer.answer([chat(samples[1])], GREEDY)[0]
    assert len(whole.text) == 4
    stopping = read_generation({"until": [whole.text[2:], "never"]}, 8)
    cut, other = answerer.answer([chat(samples[1]), chat(samples[0])], stopping)
    assert cut.text == whole.text[:2]
    assert cut.new_tokens < whole.new_tokens
    assert other.text == answerer.answer([chat(samples[0])], GREEDY)[0].text


def test_beams_are_counted_once(toy, merged, samples):
    beams = read_generation({"num_beams": 2}, 4)
    answers = Answerer(merged, toy[1]).answer([chat(sample) for sample in samples[:2]], beams)
    rows = merged.report.row_tokens
    assert len(rows) == 4
    assert [answer.visual_after for answer in answers] == [rows[0][-1], rows[2][-1]]


def test_likelihoods_of_the_plain_model_are_those_of_one_forward(toy, samples):
    """Prompt and answer at once, and the log-probabilities read off at the answer, token by token."""
    model, processor = toy
    given = ["ZEBRA", "red star", "no"]
    with illava.accelerate(model, illava.Illava(keep=1.0)) as handle:
        found = Answerer(handle, processor).likelihoods([chat(s) for s in samples], given)
    for sample, words, likely in zip(samples, given, found, strict=True):
        inputs = inputs_of(model, processor, [sample])
        tokens = processor.tokenizer(words, add_special_tokens=False).input_ids
        length = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([tokens])], 1)
        for name, filling in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, len(tokens)), value=filling)
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        expected, greedy = [], True
        for step, token in enumerate(tokens):
            row = logits[length - 1 + step].double()
            expected.append(float(row[token] - row.logsumexp(0)))
            greedy &= int(row.argmax()) == token
        assert likely.log_probs == pytest.approx(expected, abs=1e-3)
        assert likely.greedy == greedy


def test_likelihoods_of_a_merged_model_are_those_it_generates_with(toy, merged, samples):
    answerer = Answerer(merged, toy[1])
    given = [answer.text for answer in answerer.answer([chat(s) for s in samples], GREEDY)]
    found = answerer.likelihoods([chat(s) for s in samples], given)
    for sample, words, likely in zip(samples, given, found, strict=True):
        out, length = generated(toy, sample)
        tokens = toy[1].tokenizer(words, add_special_tokens=False).input_ids
        assert out.sequences[0, length : length + len(tokens)].tolist() == tokens
        for step, token in enumerate(tokens):
            row = out.logits[step][0].double()
            assert likely.log_probs[step] == pytest.approx(float(row[token] - row.logsumexp(0)), abs=1e-3)
        assert likely.greedy
        assert len(likely.log_probs) == len(tokens)
    (wrong,) = answerer.likelihoods([chat(samples[1])], ["green"])
    assert not wrong.greedy
    assert sum(wrong.log_probs) < sum(found[1].log_probs)


def test_an_answer_is_tokenized_as_the_template_writes_it(toy, merged, samples):
    processor = copy.deepcopy(toy[1])
    answerer = Answerer(merged, processor)
    (red,) = processor.tokenizer("red", add_special_tokens=False).input_ids[:1]
    (spaced,) = processor.tokenizer(" red", add_special_tokens=False).input_ids
    assert answerer._tokens(chat(samples[0]), " red ")[0] == red
    processor.chat_template = (
        "{% for turn in messages %}{% if turn['role'] == 'user' %}USER: <|image_pad|>{% else %} ANSWER: "
        "{{ turn['content'][0]['text'] }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %} ANSWER:{% endif %}"
    )
    assert answerer._tokens(chat(samples[0]), "red") == [spaced]
    # A template whose conversations do not begin as its prompts do.
    answer = "{{ messages[1]['content'][0]['text'] }}"
    processor.chat_template = f"{{% if add_generation_prompt %}}Q:{{% else %}}{answer}{{% endif %}}"
    assert answerer._tokens(chat(samples[0]), "red")[0] == red


def test_what_cannot_be_asked_is_refused_in_one_line(toy, merged, samples):
    answerer = Answerer(merged, toy[1])
    with pytest.raises(illava.InputError, match=r"a text contains <\|image_pad\|>, the model's placeholder"):
        answerer.answer([chat(samples[0], "<|image_pad|>")], GREEDY)
    with pytest.raises(illava.InputError, match="a choice is empty"):
        answerer.likelihoods([chat(samples[0])], [" "])
