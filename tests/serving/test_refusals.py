"""What the server refuses: each with its status, in the shape of OpenAI's errors."""

from __future__ import annotations

import json

import pytest

from illava.errors import InputError
from illava.io.shares import parse_share
from illava.serving.settings import Settings

from .conftest import body, running, text_of
from .refusing import LIMITS, refused


@pytest.fixture(scope="module")
def server(toy):
    with running(toy, method="illava-best", allowed_methods=("fastv",), **LIMITS) as one:
        yield one


@pytest.mark.parametrize(
    ("options", "said", "param"),
    [
        ({"n": 2}, "n is not supported; leave it out or set it to 1", "n"),
        ({"logprobs": True}, "logprobs is not supported", "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs is not supported", "top_logprobs"),
        ({"frequency_penalty": 0.5}, "leave it out or set it to 0", "frequency_penalty"),
        ({"tools": [{"type": "function"}]}, "tools is not supported", "tools"),
        ({"response_format": {"type": "json_object"}}, 'set it to {"type": "text"}', "response_format"),
        ({"audio": {"voice": "x"}}, "audio is not supported; leave it out", "audio"),
        ({"no_such_thing": 1}, "there is no such field", "no_such_thing"),
        ({"max_tokens": 11}, "this server generates 10 at most", "max_tokens"),
        ({"max_tokens": 0}, "greater than or equal to 1", "max_tokens"),
        ({"temperature": -1}, "greater than or equal to 0", "temperature"),
        ({"temperature": 3}, "less than or equal to 2", "temperature"),
        ({"top_p": 0}, "greater than 0", "top_p"),
        ({"seed": 2**64}, "less than", "seed"),
        ({"stop": ["a"] * 5}, "at most 4", "stop"),
        ({"stop": ""}, "1 to 256 characters", "stop"),
        ({"keep": 0.6}, "this server allows 0.1 to 0.5", "keep"),
        ({"keep": "1/20"}, "this server allows 0.1 to 0.5", "keep"),
        ({"keep": 0}, "a number above 0 and up to 1", "keep"),
        ({"keep": "much"}, "a number above 0 and up to 1", "keep"),
        ({"method": "tome"}, "allows fastv, illava-best", "method"),
        ({"messages": []}, "at least 1 item", "messages"),
        ({"messages": "hello"}, "valid list", "messages"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "'system', 'developer', 'user'",
            "messages.0.role",
        ),
        ({"messages": [{"role": "user"}]}, "field required", "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "valid list", "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "does not match any of the expected tags",
            "messages.0.content.0",
        ),
        (
            {"messages": [{"role": "user", "content": "What is <|image_pad|>?"}]},
            "the model's placeholder of a picture",
            "messages.0.content",
        ),
        ({"messages": [{"role": "user", "content": "half \ud83d"}]}, "half an emoji", None),
        ({"model": "\ud83d"}, "half an emoji", None),
        ({"\udfff": 1}, "half an emoji", None),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, "at most 400 are allowed", "messages"),
    ],
)
def test_wrong_fields(server, options, said, param):
    content = json.dumps(body(server, "What?", **options))
    response = server.post(content=content, headers={"content-type": "application/json"})
    refused(response, 400, said, param=param)


def test_fields_that_change_nothing_are_accepted(server):
    same = text_of(server.ask("What?"))
    neutral = {"n": 1, "logprobs": False, "tools": None, "frequency_penalty": 0.0, "stop": None, "seed": None}
    more = {"user": "me", "store": True, "metadata": {"a": "b"}, "response_format": {"type": "text"}}
    assert text_of(server.ask("What?", **neutral, **more)) == same


def test_bodies_that_are_no_requests(server):
    kind = {"content-type": "application/json"}
    for content in (
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100000,
        b'{"model": 1' + b"1" * 10000 + b"}",
        # Half an emoji as bytes, which is no UTF-8, and an encoding that JSON does not have.
        json.dumps(body(server, "HALF")).encode().replace(b"HALF", b"\xed\xa0\xbd"),
        json.dumps(body(server, "What?")).encode("utf-16"),
    ):
        refused(server.post(content=content, headers=kind), 400)
    good = json.dumps(body(server, "What?")).encode()
    assert (
        server.post(content=good, headers={"content-type": "application/json; charset=utf-8"}).status_code
        == 200
    )
    for other in ("text/plain", "application/x-www-form-urlencoded", ""):
        # What a page of another site may send without asking.
        refused(server.post(content=good, headers={"content-type": other}), 415, "application/json")


def test_unknown_models_paths_and_verbs(server):
    refused(
        server.post(body(server, "What?", model="gpt")), 404, "'gpt' does not exist", code="model_not_found"
    )
    refused(server.get("/v1/models/gpt"), 404, code="model_not_found")
    assert server.get("/v1/models/toy").json() == server.get("/v1/models").json()["data"][0]
    refused(server.get("/v1/nothing"), 404)
    refused(server.get("/docs"), 404)
    refused(server.get("/openapi.json"), 404)
    refused(server.get("/v1/chat/completions"), 405)


def test_the_key(endless):
    with running(endless, api_key="the key") as server:
        for headers in (
            {},
            {"authorization": "Bearer other"},
            {"authorization": "the key"},
            {"authorization": "Bearer é"},
        ):
            encoded = {name: value.encode("latin-1") for name, value in headers.items()}
            for call in (
                lambda h: server.get("/v1/models", headers=h),
                lambda h: server.get("/metrics", headers=h),
                lambda h: server.get("/nothing", headers=h),
                lambda h: server.post(body(server, "What?"), headers=h),
                lambda h: server.post(content=b"x" * 3_000_000, headers=h),
            ):
                response = call(encoded)
                refused(response, 401, "Authorization: Bearer KEY", code="invalid_api_key")
                assert response.headers["www-authenticate"] == "Bearer"
        assert server.get("/health").json() == {"status": "ok"}
        right = {"authorization": "Bearer the key"}
        assert server.post(body(server, "What?", max_tokens=1), headers=right).status_code == 200
        assert "illava_requests_total" in server.get("/metrics", headers=right).text
        assert server.metric("requests_total", path="/v1/chat/completions", status="401") == 8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("max_batch", 0), ("max_wait_ms", -1), ("max_queue", 0), ("max_tokens", 0), ("timeout", 0)),
        *(
            ("max_megapixels", float("nan")),
            ("temperature", 3),
            ("min_keep", 1.5),
            ("keep", 0),
            ("api_key", " "),
        ),
        *(
            ("api_key", "é"),
            ("name", ""),
            ("allowed_hosts", ("http://a.example",)),
            ("allowed_hosts", ("é",)),
        ),
    ],
)
def test_settings_that_cannot_be_used(field, value):
    with pytest.raises(InputError, match=r"must be|empty"):
        Settings(**{"name": "x", field: value})


def test_shares():
    assert [parse_share(value) for value in (1, 0.5, "1/9", "0.25", "1e-2")] == [1.0, 0.5, 1 / 9, 0.25, 0.01]
    wrong = (
        0,
        -1,
        1.1,
        "0",
        "2/1",
        "1/0",
        "x",
        "",
        "1e-99999999",
        float("nan"),
        float("inf"),
        "1" * 5000 + "/1",
    )
    assert [parse_share(value) for value in wrong] == [None] * len(wrong)


def test_texts_that_are_too_long_for_sure_are_not_tokenized(server, monkeypatch):
    tokenizer = server.engine.processor.tokenizer
    longest = max(tokenizer.get_vocab(), key=len)
    most = LIMITS["max_prompt_tokens"] * len(longest)
    # As many characters as that many tokens can have are counted as tokens.
    refused(server.post(body(server, "x" * most)), 400, "tokens; at most 400 are allowed")
    tokenized = []
    monkeypatch.setattr(
        type(server.engine.processor), "apply_chat_template", lambda *_, **__: tokenized.append(1)
    )
    response = server.post(body(server, "x" * (most // 2), "y" * (most // 2 + 1)))
    said = f"the messages have {most // 2 * 2 + 1} characters; at most {most} are allowed"
    assert most % 2 == 0
    refused(response, 400, said, code="context_length_exceeded", param="messages")
    assert tokenized == []
