"""Joined inputs are, bit for bit, those that the processor makes; no picture is processed twice."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image

from illava.io.prompts import apply_template
from illava.serving.joining import join

from .conftest import queued, running, text_of, together, until
from .processors import PROCESSORS

GENERATOR = torch.Generator().manual_seed(0)


def noise(width: int, height: int) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=GENERATOR, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def turn(*parts):
    kinds = {str: "text", list: "video"}
    content = [{"type": (kind := kinds.get(type(part), "image")), kind: part} for part in parts]
    return [{"role": "user", "content": content}]


def frames(count: int, *size: int) -> list[Image.Image]:
    return [noise(*size) for _ in range(count)]


CHATS = {
    "text": [turn("What?"), turn("What colour is the heart?"), turn("Is")],
    "one size": [turn(noise(64, 64), "What?"), turn(noise(64, 64), "What colour is the heart?")],
    "sizes": [turn(noise(64, 64), "?"), turn(noise(96, 40), "What colour is it?"), turn(noise(31, 77), "a")],
    "several": [turn(noise(64, 64), "What?", noise(80, 60)), turn(noise(64, 64), "is the heart?")],
    "videos": [turn(frames(4, 64, 64), "What?"), turn(frames(4, 64, 48), "What colour is the heart?")],
    "longer videos": [turn(frames(2, 64, 64), "What?"), turn(frames(6, 48, 64), "What colour is it?")],
    "both": [turn(frames(4, 64, 64), "What?", noise(64, 64)), turn(noise(32, 60), frames(2, 64, 48), "a")],
}
WITH_VIDEOS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")


@pytest.fixture(scope="module", params=PROCESSORS)
def named(request):
    return request.param, PROCESSORS[request.param]()


@pytest.mark.parametrize("kind", CHATS)
def test_joined_inputs_are_those_of_the_processor(named, kind):
    name, processor = named
    videos = kind in ("videos", "longer videos", "both")
    if videos and name not in WITH_VIDEOS:
        pytest.skip("no videos, or of one length only")
    chats = CHATS[kind]
    expected = apply_template(processor, chats, videos)
    joined = join(processor, [apply_template(processor, [chat], videos) for chat in chats])
    assert joined is not None
    assert list(joined) == list(expected)
    for field, value in expected.items():
        assert joined[field].dtype == value.dtype, field
        assert torch.equal(joined[field], value), field
    assert ("pixel_values" in joined) == (kind not in ("text", "videos", "longer videos"))


def test_what_is_not_known_to_be_equal_is_left_to_the_processor():
    processor = PROCESSORS["qwen2_vl"]()
    one, two = (apply_template(processor, [chat], False) for chat in CHATS["one size"])
    assert join(processor, [one, two]) is not None
    text = apply_template(processor, [CHATS["text"][0]], False)
    assert join(processor, [one, text]) is None
    assert join(processor, [{**one, "unheard": torch.ones(1)}, {**two, "unheard": torch.ones(1)}]) is None
    assert join(processor, [{**one, "image_sizes": [1]}, {**two, "image_sizes": [2]}]) is None
    # Videos of different sizes, which only processors that put patches in a row take.
    sizes = [torch.zeros(1, 4, 3, 8, 8), torch.zeros(1, 6, 3, 8, 8)]
    given = [{**one, "pixel_values_videos": size} for size in sizes]
    assert join(processor, given) is None
    assert join(processor, [{**one, "image_sizes": torch.ones(1, n)} for n in (2, 3)]) is None
    assert join(processor, [{**one, "pixel_values": torch.ones(2, n)} for n in (1, 1)]) is not None
    unpadded = copy.deepcopy(processor)
    unpadded.tokenizer.pad_token = None
    assert join(unpadded, [one, two]) is None


@pytest.fixture(scope="module")
def server(endless):
    with running(endless, max_batch=4, max_tokens=8) as one:
        yield one


def ask_four(server, gate) -> list[str]:
    """The answers to four prompts with two pictures each, in one batch."""
    pictures = [noise(64 + 8 * n, 64) for n in range(4)]
    gate.open.clear()
    threads = together(lambda: server.ask("first", max_tokens=1))
    until(lambda: len(gate.batches) == 1)
    answers: dict[int, str] = {}
    for number, picture in enumerate(pictures):
        call = lambda n=number, p=picture: answers.__setitem__(n, text_of(server.ask(p, "What is it?", p)))  # noqa: E731
        threads += together(call)
        until(lambda: queued(server) == number + 1)  # noqa: B023
    gate.open.set()
    for thread in threads:
        thread.join()
    assert [len(batch) for batch in gate.batches] == [1, 4]
    return [answers[number] for number in range(4)]


def test_each_picture_is_processed_once(server, gate, monkeypatch):
    images = type(server.engine.processor.image_processor)
    processed, preprocess = [], images.preprocess

    def counted(self, pictures, *args, **kwargs):
        flat = pictures if isinstance(pictures, list) else [pictures]
        processed.extend(one for each in flat for one in (each if isinstance(each, list) else [each]))
        return preprocess(self, pictures, *args, **kwargs)

    monkeypatch.setattr(images, "preprocess", counted)
    ask_four(server, gate)
    assert len(processed) == 8


def test_the_processors_own_batch_gives_the_same_answers(server, gate, monkeypatch):
    from illava.serving import engine as work

    state = GENERATOR.get_state()
    expected = ask_four(server, gate)
    assert len(set(expected)) > 1
    gate.batches.clear()
    GENERATOR.set_state(state)
    monkeypatch.setattr(work, "join", lambda *_: None)
    assert ask_four(server, gate) == expected
