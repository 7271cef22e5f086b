"""What the server refuses: each with its status, in the shape of OpenAI's errors."""

from __future__ import annotations

import io
import json
import struct
import zlib

import pytest
from PIL import Image

from illava.errors import InputError
from illava.io.pictures import open_picture
from illava.serving.settings import Settings, parse_share

from .conftest import as_bytes, body, data_url, running, text_of, user

LIMITS = dict(
    max_tokens=10,
    max_prompt_tokens=400,
    max_pictures=2,
    max_frames=4,
    max_megapixels=0.2,
    max_picture_mb=0.1,
    max_request_mb=0.5,
    min_keep=0.1,
    max_keep=0.5,
)


@pytest.fixture(scope="module")
def server(toy):
    with running(toy, method="illava-best", allowed_methods=("fastv",), **LIMITS) as one:
        yield one


@pytest.fixture(scope="module")
def small() -> Image.Image:
    return Image.new("RGB", (96, 96), "blue")


def refused(response, status, *parts, code=None, param=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"].endswith("_error")
    assert "\n" not in error["message"]
    for part in parts:
        assert part in error["message"]
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert error["param"] == param


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
        ({"messages": [{"role": "user", "content": "word " * 600}]}, "this server takes 400", "messages"),
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


def test_too_many_pictures_and_frames(server, small):
    refused(
        server.post(body(server, small, small, small, "What?")),
        400,
        "3 pictures are too many; send at most 2",
    )
    refused(
        server.post(body(server, [small] * 5, "What?")), 400, "5 video frames are too many; send at most 4"
    )
    assert server.post(body(server, small, small, "What?")).status_code == 200


def test_frames_of_different_sizes(server, small):
    refused(server.post(body(server, [small, small.resize((64, 64))], "What?")), 400, "differ in size")


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file that claims to be this large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_pixel_bombs_are_not_decoded(server, small, monkeypatch):
    from illava.serving import pictures

    decoded = []
    monkeypatch.setattr(pictures, "decode", lambda *given: decoded.append(given))
    # Zeros that zlib makes a thousandth of.
    real = png(3000, 3000, zlib.compress(bytes(3000 * 9001)))
    assert len(real) < 0.1 * 2**20
    for bomb in (real, png(60000, 60000), png(2**31 - 1, 2**31 - 1), png(449, 449)):
        refused(server.post(body(server, bomb, "What?")), 413, "pixels")
    # Each is small enough, both are not.
    half = png(400, 300)
    refused(server.post(body(server, half, half, "What?")), 413, "million pixels in all")
    refused(server.post(body(server, [half, half], "What?")), 413, "million pixels in all")
    assert decoded == []


def test_pictures_that_cannot_be_read(server, small):
    whole = as_bytes(small)
    tiff = io.BytesIO()
    small.save(tiff, format="TIFF")
    for bad in (
        b"",
        b"hello",
        whole[:60],
        whole[:-40],
        b"<svg/>",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        tiff.getvalue(),
        png(0, 5),
    ):
        refused(server.post(body(server, bad, "What?")), 400)
    for url, said in (
        ("data:image/png;base64,%%%", "not valid base64"),
        ("data:image/png;base64,é", "not valid base64"),
        ("data:image/png,abc", "must begin with data:image/TYPE;base64,"),
        ("data:text/html;base64,AAAA", "must begin with data:image/TYPE;base64,"),
        ("https://pictures.example/a.png", "--allow-host"),
        ("file:///etc/passwd", "must be a data URL"),
        ("/etc/passwd", "must be a data URL"),
    ):
        turn = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
        refused(server.post(body(server, "What?", messages=[turn])), 400, said)
    assert server.post(body(server, small, "What?")).status_code == 200


def test_kinds_of_pictures(server):
    picture = open_picture("demo/number.png")
    asked = "What colour is the heart?"
    expected = text_of(server.ask(picture, asked))
    assert expected == "green"
    for kind, options in (("webp", {"lossless": True}), ("jpeg", {"quality": 95}), ("gif", {})):
        file = io.BytesIO()
        picture.save(file, format=kind, **options)
        content = [
            {"type": "image_url", "image_url": {"url": data_url(file.getvalue(), kind), "detail": "high"}}
        ]
        turn = {"role": "user", "content": [*content, {"type": "text", "text": asked}]}
        assert text_of(server.post(body(server, messages=[turn])).json()) == expected


def test_large_bodies_and_pictures(server):
    noise = Image.effect_noise((420, 420), 90)
    assert len(as_bytes(noise)) > 0.1 * 2**20
    refused(server.post(body(server, noise, "What?")), 413, "more than 104858 bytes", code="too_large")
    # Announced and not: both are refused before the end.
    large = b'{"model": "' + b"x" * 2_000_000 + b'"}'
    kind = {"content-type": "application/json"}
    refused(server.post(content=large, headers=kind), 413, "more than 524288 bytes")
    pieces = (large[start : start + 9999] for start in range(0, len(large), 9999))
    refused(server.post(content=pieces, headers=kind), 413, "more than 524288 bytes")


def test_pictures_belong_to_users(server, small):
    turn = {**user(small, "What?"), "role": "system"}
    refused(
        server.post(body(server, messages=[turn])), 400, "a message of the role system can hold text only"
    )


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
