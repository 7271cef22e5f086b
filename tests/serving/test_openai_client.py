"""The official Python client: answers, streams, pictures, and its exceptions for our errors."""

from __future__ import annotations

import asyncio

import pytest

from illava.io.pictures import open_picture
from illava.serving.places import Full

from .conftest import WAIT, body, running

openai = pytest.importorskip("openai")
HEART = "What colour is the heart?"


@pytest.fixture(scope="module")
def server(toy):
    with running(toy, api_key="secret", allowed_methods=("fastv",), max_tokens=20, max_pictures=2) as one:
        yield one


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0, timeout=WAIT) as one:
        yield one


@pytest.fixture(scope="module")
def asked(server):
    return body(server, open_picture("demo/number.png"), HEART)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").owned_by == "illava"


def test_an_answer(client, asked):
    answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.content == "green"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.visual_tokens == {"before": 144, "after": 16}
    answer = client.chat.completions.create(**asked, extra_body={"keep": "1/3", "method": "fastv"})
    assert answer.usage.visual_tokens == {"before": 144, "after": 48}


def test_a_stream(client, asked):
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=options))
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "green"
    assert chunks[-1].usage.visual_tokens == {"before": 144, "after": 16}
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_the_clients_own_stream_helper(client, asked):
    with client.chat.completions.stream(**asked) as stream:
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == "green"


def test_an_answer_goes_back_as_a_turn(client, asked):
    message = client.chat.completions.create(**asked).choices[0].message
    turns = [*asked["messages"], message.model_dump(), {"role": "user", "content": "Is there a red diamond?"}]
    assert client.chat.completions.create(model="toy", messages=turns).choices[0].message.content


def test_several_at_once(server, asked):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="secret", timeout=WAIT) as client:
            return await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(5)))

    assert [answer.choices[0].message.content for answer in asyncio.run(ask())] == ["green"] * 5


def test_errors(server, client, asked):
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as error:
        create(**{**asked, "model": "gpt"})
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="n is not supported"):
        create(**asked, n=2)
    with pytest.raises(openai.BadRequestError, match="20 at most"):
        create(**asked, max_completion_tokens=21)
    with pytest.raises(openai.BadRequestError, match="3 pictures are too many"):
        create(**body(server, *[open_picture("demo/number.png")] * 3, HEART))
    with pytest.raises(openai.AuthenticationError, match="API key"):
        client.with_options(api_key="wrong").chat.completions.create(**asked)
    places = [server.engine.places.take() for _ in range(server.engine.settings.max_queue)]
    with pytest.raises(openai.RateLimitError, match="are waiting"):
        create(**asked)
    for place in places:
        place.leave()


def test_it_tries_again_when_the_queue_was_full(server, client, asked, monkeypatch):
    places, tries = server.engine.places, []

    def take():
        tries.append(1)
        if len(tries) == 1:
            raise Full
        return type(places).take(places)

    monkeypatch.setattr(places, "take", take)
    assert client.with_options(max_retries=2).chat.completions.create(**asked).choices
    assert len(tries) == 2
