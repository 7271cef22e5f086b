"""Bodies of requests: right ones, and what becomes of them."""

from __future__ import annotations

import base64
import copy
import json
import random
from typing import Any

from . import pictures

TEXTS = (
    "What colour is the heart?",
    "Is there a red diamond?",
    "a",
    "né 🐈‍⬛ 字",
    "  ",
    "1\n2\t3",
    "\u202eabc",
)
PROBE = "What colour is the heart?"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, 10**30, -(10**30), 2**63, "", "x", "1/9", "1/0",
    "0", "-1", "nan", "\x00", "\ud83d", [], {}, [[]], [None], {"a": 1}, ["x"] * 20, {"type": "text"},
    "a" * 5000, "<|image_pad|>", "<|im_end|>", "data:", "data:image/png;base64,",
    "data:image/png;base64,====", "data:text/plain,hello", "http://127.0.0.1:1/x.png",
    "http://169.254.169.254/", "file:///etc/passwd", "http://[::1]/", "https://" + "a" * 5000,
)  # fmt: skip
FIELDS = (
    "n", "logprobs", "tools", "response_format", "keep", "method", "stop", "seed", "temperature", "top_p",
    "max_tokens", "max_completion_tokens", "stream", "stream_options", "user", "__proto__", "logit_bias",
    "audio", "model", "messages",
)  # fmt: skip


def url(data: bytes, kind: str) -> str:
    """A file as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image(data: bytes, kind: str) -> dict[str, Any]:
    """The part of a message with this picture."""
    return {"type": "image_url", "image_url": {"url": url(data, kind)}}


def probe(model: str) -> dict[str, Any]:
    """The request whose answer must stay the same."""
    rng = random.Random(0)
    content = [
        image(pictures.file(pictures.drawn(rng, 96, 96), "PNG"), "png"),
        {"type": "text", "text": PROBE},
    ]
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 8}


def good(rng: random.Random, model: str) -> dict[str, Any]:
    """A request that the server answers."""
    content: list[dict[str, Any]] = [image(*pictures.good(rng)) for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    if not content and rng.random() < 0.3:
        frame = pictures.file(pictures.drawn(rng, 64, 48), "PNG")
        content.append({"type": "video", "video": [url(frame, "png")] * rng.choice((1, 2, 4))})
    content.insert(rng.randrange(len(content) + 1), {"type": "text", "text": rng.choice(TEXTS)})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if rng.random() < 0.2:
        messages.insert(0, {"role": rng.choice(("system", "developer")), "content": rng.choice(TEXTS)})
    if rng.random() < 0.1:
        messages += [
            {"role": "assistant", "content": "green"},
            {"role": "user", "content": rng.choice(TEXTS)},
        ]
    body = {"model": model, "messages": messages, "max_tokens": rng.choice((1, 3, 8))}
    options = {
        "stream": rng.random() < 0.7,
        "keep": rng.choice(("1/9", "1/3", 0.5, 1)),
        "temperature": rng.choice((0, 0.7, 2)),
        "top_p": rng.choice((0.1, 1)),
        "seed": rng.choice((0, -5, 2**63 - 1)),
        "stop": rng.choice(("a", ["x", "green"])),
        "stream_options": {"include_usage": True},
        "user": "someone",
    }
    chosen = [name for name in options if rng.random() < 0.3]
    return {**body, **{name: options[name] for name in chosen}}


def encoded(body: Any) -> bytes:
    """A body as JSON. Lone surrogates are escaped."""
    return json.dumps(body).encode()


def broken_json(rng: random.Random, model: str) -> bytes:
    """JSON with faults, or no JSON."""
    data = encoded(good(rng, model))
    kind = rng.randrange(7)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        return rng.choice(
            (b"", b"null", b"[]", b"0", b'"x"', b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"NaN", b"{" * 50000)
        )
    if kind == 2:
        return b"[" * rng.choice((10, 900, 20000)) + b"]" * rng.choice((0, 900, 20000))
    if kind == 3:
        return data.replace(
            b'"max_tokens": ',
            b'"max_tokens": ' + rng.choice((b"1e400", b"NaN", b"-Infinity", b"9" * 5000, b"01")),
        )
    if kind == 4:
        return data[:-1] + b', "messages": ' + rng.choice((b"[]", b"{}", b"7")) + b"}"
    if kind == 5:
        # No UTF-8: half an emoji as if it were a character, zero in two bytes, a lone byte.
        return data.replace(b'"text": "', b'"text": "' + rng.choice((b"\xed\xa0\xbd", b"\xc0\x80", b"\xff")))
    return pictures.mutated(rng, data)


def wrong_types(rng: random.Random, model: str) -> bytes:
    """A right request in which some values are of other types."""
    body = copy.deepcopy(good(rng, model))
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(body))
        holder, key = rng.choice(places)
        if rng.random() < 0.15 and isinstance(holder, dict):
            holder[rng.choice(FIELDS)] = copy.deepcopy(rng.choice(VALUES))
        elif rng.random() < 0.15:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
        if not body:
            break
    return encoded(body)


def _places(value: Any) -> Any:
    """Every (container, key) in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


def broken_picture(rng: random.Random, model: str) -> bytes:
    """A right request but for its pictures or its frames."""
    files = [pictures.any_picture(rng) for _ in range(rng.choice((1, 1, 2, 4)))]
    parts = [image(*one) for one in files]
    if rng.random() < 0.15:
        parts = [{"type": "video", "video": [url(*one) for one in files]}]
    if rng.random() < 0.1:
        address = parts[0].get("image_url", {})
        address["url"] = str(address.get("url", ""))[: rng.randrange(60)] + rng.choice(
            ("", "=", "!", "%41", "\n")
        )
    body = {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": 2}
    return encoded(body)


def huge(rng: random.Random, model: str) -> bytes:
    """A request of which something is very large."""
    body = good(rng, model)
    kind = rng.randrange(7)
    if kind == 0:
        body["messages"] = body["messages"] * rng.choice((20, 257, 600))
    elif kind == 1:
        body["messages"][0]["content"] = [{"type": "text", "text": "a"}] * rng.choice((256, 257, 5000))
    elif kind == 2:
        body["messages"][-1]["content"] = rng.choice(("word ", "🐈", "\n", "x")) * rng.choice((800, 10**5))
    elif kind == 3:
        body["max_tokens"] = rng.choice((10**5, 10**18, 2**64))
    elif kind == 4:
        body["stop"] = ["x" * rng.choice((256, 257, 10**5))] * rng.choice((4, 5, 1000))
    elif kind == 5:
        body["messages"][-1]["content"] = [
            image(*pictures.good(rng)) for _ in range(rng.choice((5, 40, 300)))
        ]
    else:
        body["user"] = "x" * rng.choice((10**4, 6 * 10**5, 2 * 10**6))
    return encoded(body)
