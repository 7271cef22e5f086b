"""Reads the body of a request, within limits of bytes and of time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from .errors import ApiError, too_large

MB = 2**20
READ_SECONDS, DRAIN_SECONDS = 30.0, 5.0
DRAIN_BYTES = 64 * MB


class ClientLeft(Exception):
    """The client closed the connection."""


class Upload:
    """The body of one request.

    Args:
        receive: gives the next message of the request, as ASGI defines it.
    """

    def __init__(self, receive: Callable[[], Awaitable[Any]]) -> None:
        self.receive = receive
        self.complete = False
        """Whether nothing is left to be read."""

    async def read(self, announced: str, most: int) -> bytes:
        """The whole body.

        Args:
            announced: the header Content-Length, or "".
            most: bytes that are allowed.

        Raises ApiError (413, 408) for a body that is too large or too slow, and ClientLeft.
        """
        error = too_large(f"the body has more than {most} bytes; send fewer or smaller pictures")
        if announced.isdecimal() and int(announced[:20]) > most:
            raise error
        try:
            body = await asyncio.wait_for(self._read(most), READ_SECONDS)
        except asyncio.TimeoutError:
            raise ApiError(408, f"the body did not arrive within {READ_SECONDS:g} s") from None
        if len(body) > most:
            raise error
        return body

    async def drain(self) -> None:
        """Read what is left of a refused request, within limits, and discard it.

        A connection that is closed while its client still sends may lose the response.
        """
        with suppress(asyncio.TimeoutError, ClientLeft):
            await asyncio.wait_for(self._read(DRAIN_BYTES, keep=False), DRAIN_SECONDS)

    async def left(self) -> None:
        """Wait until the client closes the connection. To be called after the whole body has been read."""
        with suppress(ClientLeft):
            while True:
                await self._next()

    async def _read(self, most: int, keep: bool = True) -> bytes:
        """The body up to its end, or until it has more than ``most`` bytes."""
        body, size = bytearray(), 0
        while not self.complete and size <= most:
            piece = await self._next()
            size += len(piece)
            if keep:
                body += piece
        return bytes(body)

    async def _next(self) -> bytes:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            self.complete = True
            raise ClientLeft
        self.complete = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece
