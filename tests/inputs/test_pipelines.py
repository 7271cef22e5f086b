"""Pipelines and streamers of transformers: what they write is what ``generate`` writes."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
from transformers import TextIteratorStreamer, pipeline

import illava
from illava.ask import load
from illava.io.pictures import open_picture

OPTIONS: dict[str, Any] = dict(max_new_tokens=8, return_full_text=False, generate_kwargs={"do_sample": False})
QUESTIONS = ("What colour is the heart?", "What does it read?", "Is there a red diamond?")
TASKS = ("image-text-to-text", "any-to-any")


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load("zoo/S")


@pytest.fixture(scope="module")
def chats() -> list[list[dict[str, Any]]]:
    shown = [open_picture(f"demo/{name}") for name in ("number.png", "word.png", "number.png")]
    return [
        [{"role": "user", "content": [{"type": "image", "image": one}, {"type": "text", "text": question}]}]
        for one, question in zip(shown, QUESTIONS, strict=True)
    ]


@pytest.fixture(scope="module")
def written(loaded: tuple[Any, Any], chats: list[Any]) -> Iterator[list[str]]:
    """The model is accelerated as long as this is used; what it writes in answer to each chat."""
    model, processor = loaded
    with illava.accelerate(model, keep=1 / 3):
        yield [answer(model, processor, chat) for chat in chats]


def encoded(processor: Any, chat: Any) -> Any:
    options = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    return processor.apply_chat_template(chat, **options)


def answer(model: Any, processor: Any, chat: Any) -> str:
    inputs = encoded(processor, chat)
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def texts(answers: list[Any]) -> list[str]:
    return [(one[0] if isinstance(one, list) else one)["generated_text"] for one in answers]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_lists_of_chats(loaded: Any, chats: Any, written: list[str], task: str, batch_size: int) -> None:
    model, processor = loaded
    pipe = pipeline(task, model=model, processor=processor)
    assert texts(pipe(text=chats, batch_size=batch_size, **OPTIONS)) == written
    assert model.model._illava_handle.report.final_tokens < model.model._illava_handle.report.visual_tokens


def test_other_ways_to_ask(loaded: Any, chats: Any, written: list[str]) -> None:
    model, processor = loaded
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    assert texts(pipe(text=chats[0], **OPTIONS)) == written[:1]
    assert [texts(one)[0] for one in pipe((chat for chat in chats), **OPTIONS)] == written
    prompts = [
        processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats
    ]
    images = [chat[0]["content"][0]["image"] for chat in chats]
    for size in (1, 3):
        assert texts(pipe(images=images, text=prompts, batch_size=size, **OPTIONS)) == written
    whole = pipe(text=chats[0], max_new_tokens=8, generate_kwargs={"do_sample": False})
    assert whole[0]["generated_text"][-1] == {"role": "assistant", "content": written[0]}


def test_what_transformers_refuses_stays_refused(loaded: Any, chats: Any, written: list[str]) -> None:
    """Its pipeline makes no batch of chats with and without images, accelerated or not."""
    model, processor = loaded
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    text = [{"role": "user", "content": [{"type": "text", "text": "What is 2?"}]}]
    assert len(pipe(text=[chats[0], text], **OPTIONS)) == 2
    with pytest.raises(ValueError, match="different keys"):
        pipe(text=[chats[0], text], batch_size=2, **OPTIONS)


def test_a_streamer_gives_the_text_in_pieces(loaded: Any, chats: Any, written: list[str]) -> None:
    model, processor = loaded
    for chat, expected in zip(chats, written, strict=True):
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        options = dict(**encoded(processor, chat), max_new_tokens=8, do_sample=False, streamer=streamer)
        thread = Thread(target=model.generate, kwargs=options)
        thread.start()
        assert "".join(streamer) == expected
        thread.join()
