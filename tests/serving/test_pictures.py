"""Pictures in requests: those that are read, and those that are refused before they are decoded."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from illava.io.pictures import open_picture

from .conftest import as_bytes, body, data_url, running, text_of, user
from .refusing import LIMITS, refused


@pytest.fixture(scope="module")
def server(toy):
    with running(toy, method="illava-best", allowed_methods=("fastv",), **LIMITS) as one:
        yield one


@pytest.fixture(scope="module")
def small() -> Image.Image:
    return Image.new("RGB", (96, 96), "blue")


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
