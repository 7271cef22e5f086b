"""Every request of the fuzz test by its number: what is sent, how, and which statuses are right for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import bodies

PATH = "/v1/chat/completions"
REFUSED = frozenset({400, 404, 413, 429})
"""Statuses of requests that are wrong or too large, or that find the queue full."""
OTHERWISE = REFUSED | {405, 408, 411, 414, 415, 431}
"""Those of faults of HTTP itself."""
KINDS = {"good": 2, "json": 2, "types": 3, "picture": 3, "huge": 1, "http": 1, "leaves": 2, "slow": 1}
"""The kinds of requests and how often each comes."""


@dataclass(frozen=True)
class Case:
    """One request."""

    number: int
    kind: str
    head: bytes
    """The request line and all headers, with the empty line after them."""
    body: bytes
    allowed: frozenset[int]
    """Statuses that are right."""
    pieces: tuple[int, ...] = ()
    """Where the bytes are cut when they are sent slowly..."""
    pause: float = 0.0
    """... and the seconds between the pieces."""
    leave_after_sending: int | None = None
    """The client closes the connection after so many bytes."""
    leave_after_reading: int | None = None
    """The client closes the connection after so many bytes of the response."""
    read_pause: float = 0.0
    """Seconds before each read of a few bytes of the response."""
    plain_error: bool = False
    """Whether a refusal may come from the HTTP parser, without JSON."""

    @property
    def data(self) -> bytes:
        """All bytes of the request."""
        return self.head + self.body

    @property
    def may_be_silent(self) -> bool:
        """Whether no response is right too: the client leaves, or what it sends is no HTTP."""
        return (
            self.plain_error or self.leave_after_sending is not None or self.leave_after_reading is not None
        )


@dataclass
class Maker:
    """Makes the requests of one seed."""

    model: str
    seed: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: dict(KINDS))

    def case(self, number: int) -> Case:
        """The request of this number."""
        rng = random.Random(f"{self.seed}/{number}")
        (kind,) = rng.choices([*self.kinds], [*self.kinds.values()])
        made: Case = getattr(self, f"_{kind}")(number, rng)
        return made

    def _good(self, number: int, rng: random.Random) -> Case:
        body = bodies.encoded(bodies.good(rng, self.model))
        return Case(number, "good", head(body), body, frozenset({200, 429}))

    def _json(self, number: int, rng: random.Random) -> Case:
        body = bodies.broken_json(rng, self.model)
        return Case(number, "json", head(body), body, REFUSED | {200})

    def _types(self, number: int, rng: random.Random) -> Case:
        body = bodies.wrong_types(rng, self.model)
        return Case(number, "types", head(body), body, REFUSED | {200})

    def _picture(self, number: int, rng: random.Random) -> Case:
        body = bodies.broken_picture(rng, self.model)
        return Case(number, "picture", head(body), body, REFUSED | {200})

    def _huge(self, number: int, rng: random.Random) -> Case:
        body = bodies.huge(rng, self.model)
        return Case(number, "huge", head(body), body, REFUSED | {200})

    def _http(self, number: int, rng: random.Random) -> Case:
        body = bodies.encoded(bodies.good(rng, self.model))
        kind = rng.randrange(10)
        allowed = OTHERWISE | {200}
        top = head(body)
        if kind == 0:
            top = head(
                body,
                path=rng.choice(
                    ("/", "/v1", PATH + "/", "/v1/models/" + "a" * 3000, "/%00", "/..", "/\xff", "*")
                ),
            )
        elif kind == 1:
            top = head(
                body, method=rng.choice(("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW", "post"))
            )
        elif kind == 2:
            kinds = (
                "",
                "text/plain",
                "application/json; charset=utf-16",
                "application/json" * 99,
                "multipart/form-data",
            )
            top = head(body, content_type=rng.choice(kinds))
        elif kind == 3:
            # Announced sizes that are not those of the body: the rest never comes, or is another request.
            announced = rng.choice((str(len(body) // 2), "-1", "x", "9" * 30, "0", "1e3", "0x10", " "))
            top = head(body, length=announced)
        elif kind == 4:
            top, body = head(b"", extra=("Transfer-Encoding: chunked",), length=None), _chunked(rng, body)
        elif kind == 5:
            top = head(body, extra=("Transfer-Encoding: chunked",))
        elif kind == 6:
            top = head(
                body,
                extra=tuple(f"X-{n}: {'y' * rng.choice((1, 400))}" for n in range(rng.choice((5, 90, 400)))),
            )
        elif kind == 7:
            top = rng.randbytes(rng.choice((1, 30, 70000)))
        elif kind == 8:
            extra = (
                "Content-Encoding: gzip",
                "Expect: 100-continue",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "X: \x01\x7f",
            )
            top = head(body, extra=(rng.choice(extra),))
        else:
            top = head(body, version=rng.choice(("HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.1 x", "")))
        return Case(
            number,
            "http",
            top,
            body,
            allowed,
            plain_error=True,
            leave_after_sending=len(top) + len(body) if kind in (3, 4, 5, 7, 8) else None,
        )

    def _leaves(self, number: int, rng: random.Random) -> Case:
        wanted = bodies.good(rng, self.model)
        if rng.random() < 0.7:
            wanted["stream"] = True
        body = bodies.encoded(wanted)
        top = head(body)
        if rng.random() < 0.5:
            place = rng.randrange(len(top) + len(body) + 1)
            return Case(number, "leaves", top, body, REFUSED | {200}, leave_after_sending=place)
        return Case(
            number, "leaves", top, body, REFUSED | {200}, leave_after_reading=rng.choice((0, 1, 12, 200, 600))
        )

    def _slow(self, number: int, rng: random.Random) -> Case:
        wanted = bodies.good(rng, self.model)
        body = bodies.encoded(wanted)
        top = head(body)
        if rng.random() < 0.5:
            cuts = sorted(rng.sample(range(1, len(top) + len(body)), rng.choice((1, 5, 20))))
            return Case(number, "slow", top, body, REFUSED | {200}, pieces=tuple(cuts), pause=0.02)
        return Case(number, "slow", top, body, REFUSED | {200}, read_pause=0.01)


def head(
    body: bytes,
    method: str = "POST",
    path: str = PATH,
    version: str = "HTTP/1.1",
    content_type: str = "application/json",
    length: str | None = "",
    extra: Sequence[str] = (),
) -> bytes:
    """The head of a request. ``length`` "": that of the body; None: no Content-Length."""
    lines = [
        f"{method} {path} {version}",
        "Host: x",
        "Connection: close",
        f"Content-Type: {content_type}",
        *extra,
    ]
    if length is not None:
        lines.append(f"Content-Length: {length or len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _chunked(rng: random.Random, body: bytes) -> bytes:
    """The body in chunks, some of them with faults."""
    size = rng.choice((1000, 7000))
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    data = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return data + rng.choice(
        (b"0\r\n\r\n", b"", b"-1\r\n", b"zz\r\n\r\n", b"ffffffffffffffff\r\n", b"0\r\nX: y\r\n\r\n")
    )
