"""The server's answers are those of ``generate`` on the accelerated model: alone, in batches, streamed."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import illava
from illava.ask import load
from illava.io.pictures import open_picture

from .conftest import queued, running, streamed_text, text_of, together, until, user

HEART = "What colour is the heart?"


@pytest.fixture(scope="module")
def server(toy):
    with running(toy, max_batch=4, allowed_methods=("fastv",), max_tokens=64) as one:
        yield one


@pytest.fixture(scope="module")
def number() -> Image.Image:
    return open_picture("demo/number.png")


@pytest.fixture(scope="module")
def word() -> Image.Image:
    return open_picture("demo/word.png")


def chat(*parts, role="user"):
    """A turn as transformers has it."""
    kinds = {str: "text", list: "video"}
    content = [{"type": (kind := kinds.get(type(part), "image")), kind: part} for part in parts]
    return {"role": role, "content": content}


@pytest.fixture(scope="module")
def apart():
    """The same model once more: the server's is accelerated all the time."""
    return load("zoo/S")


def direct(loaded, method, *turns, tokens=64):
    """Text, prompt tokens, new tokens and report of ``generate``, written out."""
    model, processor = loaded
    video = any(part["type"] == "video" for turn in turns for part in turn["content"])
    options = {"processor_kwargs": {"do_sample_frames": False}} if video else {}
    inputs = processor.apply_chat_template(
        list(turns),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        **options,
    )
    with illava.accelerate(model, method) as handle, torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        report = handle.report if any(p["type"] != "text" for t in turns for p in t["content"]) else None
    length = inputs["input_ids"].shape[1]
    new = ids[0, length:]
    return processor.tokenizer.decode(new, skip_special_tokens=True), length, len(new), report


@pytest.mark.parametrize(("keep", "share"), [(None, 1 / 9), (1 / 3, 1 / 3), ("1/6", 1 / 6), (1, 1.0)])
def test_answer_and_usage_are_those_of_generate(server, apart, number, keep, share):
    text, length, new, report = direct(apart, illava.Illava.best(share), chat(number, HEART))
    options = {} if keep is None else {"keep": keep}
    answer = server.ask(number, HEART, **options)
    assert text_of(answer) == text == "green"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {
        "prompt_tokens": length,
        "completion_tokens": new,
        "total_tokens": length + new,
        "visual_tokens": {"before": report.visual_tokens, "after": report.final_tokens},
    }
    assert report.final_tokens == round(144 * share)
    events = server.stream(number, HEART, stream_options={"include_usage": True}, **options)
    assert streamed_text(events) == text
    assert events[-1]["usage"] == answer["usage"]
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * (len(events) - 2) + [
        "stop"
    ]


def test_streams_have_no_usage_unless_asked(server, number):
    events = server.stream(number, HEART)
    assert all("usage" not in event for event in events)
    assert len({event["id"] for event in events}) == 1
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"


def test_another_method_where_it_is_allowed(server, apart, number):
    text, _, _, report = direct(apart, illava.FastV(keep=1 / 3), chat(number, HEART))
    answer = server.ask(number, HEART, method="fastv", keep="1/3")
    assert text_of(answer) == text
    assert answer["usage"]["visual_tokens"] == {"before": 144, "after": report.final_tokens}


def test_text_alone(server, apart):
    text, length, _, _ = direct(apart, illava.Illava.best(1 / 9), chat("What shape is red?"), tokens=5)
    answer = server.ask("What shape is red?", max_tokens=5)
    assert text_of(answer) == text
    assert answer["usage"]["visual_tokens"] == {"before": 0, "after": 0}
    assert answer["usage"]["prompt_tokens"] == length
    plain = server.post(
        {"model": "toy", "messages": [{"role": "user", "content": "What shape is red?"}], "max_tokens": 5}
    )
    assert text_of(plain.json()) == text


def test_several_turns_and_a_system_message(server, apart, number, word):
    turns = (
        chat("answer in a word", role="system"),
        chat(number, HEART),
        chat("green", role="assistant"),
        chat("Is there", word, "a red diamond?"),
    )
    text, length, new, report = direct(apart, illava.Illava.best(1 / 9), *turns)
    messages = [
        {"role": "developer", "content": "answer in a word"},
        user(number, HEART),
        {"role": "assistant", "content": "green", "refusal": None, "tool_calls": None},
        user("Is there", word, "a red diamond?"),
    ]
    answer = server.post({"model": "toy", "messages": messages}).json()
    assert text_of(answer) == text
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (length, new)
    counts = {"before": report.visual_tokens, "after": report.final_tokens}
    assert answer["usage"]["visual_tokens"] == counts


def test_a_video_as_frames(server, apart):
    frames = [Image.new("RGB", (96, 96), (60 * number, 0, 90)) for number in range(4)]
    text, length, _, report = direct(
        apart, illava.Illava.best(1 / 3), chat(frames, "Which colour comes first?")
    )
    answer = server.ask(frames, "Which colour comes first?", keep="1/3")
    assert text_of(answer) == text
    assert answer["usage"]["prompt_tokens"] == length
    assert answer["usage"]["visual_tokens"] == {"before": report.visual_tokens, "after": report.final_tokens}


def test_a_batch_answers_as_each_alone(server, apart, gate, number, word):
    asked = [
        (number, HEART),
        (word, "What does it read?"),
        (number, "Is there a red diamond?"),
        (word, "Is there anything blue here, or is there nothing blue?"),
    ]
    expected = [direct(apart, illava.Illava.best(1 / 9), chat(*parts)) for parts in asked]
    assert len({text for text, *_ in expected}) > 2
    gate.open.clear()
    answers: dict[int, dict] = {}
    threads = together(lambda: server.ask("first", max_tokens=1))
    until(lambda: len(gate.batches) == 1)
    for number_, parts in enumerate(asked):
        call = lambda n=number_, p=parts: answers.__setitem__(n, server.ask(*p))  # noqa: E731
        threads += together(call)
        until(lambda: queued(server) == number_ + 1)  # noqa: B023
    gate.open.set()
    for thread in threads:
        thread.join()
    assert [len(batch) for batch in gate.batches] == [1, 4]
    for number_, (text, length, new, report) in enumerate(expected):
        assert text_of(answers[number_]) == text
        used = answers[number_]["usage"]
        assert (used["prompt_tokens"], used["completion_tokens"]) == (length, new)
        assert used["visual_tokens"] == {"before": report.visual_tokens, "after": report.final_tokens}


def test_a_batch_has_one_method_one_keep_and_one_form(server, gate, number):
    gate.open.clear()
    threads = together(lambda: server.ask("first", max_tokens=1))
    until(lambda: len(gate.batches) == 1)
    settings = [{"keep": "1/3"}, {}, {"method": "fastv", "keep": "1/3"}, {"keep": "1/3"}, {}, {"keep": 1 / 9}]
    for count, options in enumerate(settings, 1):
        threads += together(lambda options=options: server.ask(number, HEART, max_tokens=1, **options))
        until(lambda: queued(server) == count)  # noqa: B023
    threads += together(lambda: server.ask("text alone", max_tokens=1))
    until(lambda: queued(server) == len(settings) + 1)
    gate.open.set()
    for thread in threads:
        thread.join()
    third, ninth, fastv = illava.Illava.best(1 / 3), illava.Illava.best(1 / 9), illava.FastV(keep=1 / 3)
    assert [[job.method for job in batch] for batch in gate.batches[1:]] == [
        [third, third],
        [ninth, ninth, ninth],
        [fastv],
        [ninth],
    ]
    assert [job.prompt.form for job in gate.batches[-1]] == [(False, False)]


def test_the_model_is_plain_again_afterwards(apart, number):
    before = direct(apart, illava.Illava(keep=1.0), chat(number, HEART))
    with running(apart) as server:
        server.ask(number, HEART)
        with pytest.raises(ValueError, match="accelerated already"):
            illava.accelerate(apart[0])
    assert direct(apart, illava.Illava(keep=1.0), chat(number, HEART))[:3] == before[:3]
