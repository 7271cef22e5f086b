"""Sends a request byte by byte as its case says, and judges the response."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from .cases import Case

LONGEST = 90.0
"""Seconds in which every request must be over."""
PATIENCE = 0.3
"""Seconds in which a client reads on after it has sent all that it will send."""


@dataclass(frozen=True)
class Result:
    """What became of a request."""

    status: int | None
    """None: the connection was closed without a response."""
    fault: str | None
    """What the server did wrong, in one line."""
    body: bytes = b""


async def exchange(host: str, port: int, case: Case) -> Result:
    """Send a request and judge its response."""
    try:
        received = await asyncio.wait_for(_converse(host, port, case), LONGEST)
    except asyncio.TimeoutError:
        return Result(None, f"no end after {LONGEST:g} s")
    except OSError as error:
        return Result(None, f"no connection: {type(error).__name__}")
    return judge(case, received)


async def _converse(host: str, port: int, case: Case) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, limit=2**16)
    received = bytearray()
    sending = asyncio.create_task(_send(writer, case))
    try:
        if case.leave_after_sending is not None:
            await sending
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_read(reader, received, case), PATIENCE)
        else:
            await _read(reader, received, case)
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await sending
        writer.transport.abort()
    return bytes(received)


async def _send(writer: asyncio.StreamWriter, case: Case) -> None:
    data = case.data[: case.leave_after_sending]
    cuts = [0, *case.pieces, len(data)]
    # The server may answer, and close, before it has read everything.
    with suppress(OSError):
        for start, end in pairwise(cuts):
            writer.write(data[start:end])
            await writer.drain()
            if case.pause:
                await asyncio.sleep(case.pause)


async def _read(reader: asyncio.StreamReader, received: bytearray, case: Case) -> None:
    most = case.leave_after_reading
    with suppress(OSError):
        while most is None or len(received) < most:
            piece = await reader.read(64 if case.read_pause else 2**16)
            if not piece:
                break
            received += piece
            await asyncio.sleep(case.read_pause)


def judge(case: Case, received: bytes) -> Result:
    """What a response is worth: its status, and what is wrong with it."""
    line, _, rest = received.partition(b"\r\n")
    words = line.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        if case.may_be_silent:
            return Result(None, None, received)
        return Result(None, f"no response: {line[:80]!r}", received)
    status = int(words[1])
    if status == 100:
        return judge(
            case, rest.partition(b"\r\n\r\n")[2] if b"HTTP/1." not in rest else rest[rest.index(b"HTTP/1.") :]
        )
    headers, _, body = rest.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in headers.lower():
        body = _unchunked(body)
    if status not in case.allowed:
        return Result(status, f"status {status}: {body[:200]!r}", body)
    if case.may_be_silent or case.head.startswith(b"HEAD"):
        return Result(status, None, body)
    return Result(status, _fault(status, headers, body), body)


def _fault(status: int, headers: bytes, body: bytes) -> str | None:
    if status == 200 and b"text/event-stream" in headers:
        events = body.rstrip().split(b"\n\n")
        if events[-1] == b"data: [DONE]" or b'"error"' in events[-1]:
            return None
        return f"a stream without an end: {events[-1][:100]!r}"
    try:
        content = json.loads(body)
    except ValueError:
        return f"no JSON: {body[:100]!r}"
    if status == 200:
        return None if content.get("object") in ("chat.completion", "list") else f"no answer: {body[:100]!r}"
    error = content.get("error", {})
    if (
        not isinstance(error.get("message"), str)
        or "\n" in error["message"]
        or "Traceback" in error["message"]
    ):
        return f"an error without a message of one line: {body[:200]!r}"
    return None


def _unchunked(data: bytes) -> bytes:
    """The content of a chunked body."""
    found = bytearray()
    while data:
        size, _, data = data.partition(b"\r\n")
        try:
            count = int(size, 16)
        except ValueError:
            break
        found += data[:count]
        data = data[count + 2 :]
    return bytes(found)
