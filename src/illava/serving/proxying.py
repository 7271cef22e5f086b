"""What runs in the proxies of Ray Serve: their own errors become errors like all others, with Retry-After.

If a replica dies before its answer has begun, Ray Serve's proxy gives no response, which becomes a plain
status 500. If all replicas are full, or none is there, it answers 408, 429 or 503 with a text. Clients send a
request again after 503 with Retry-After, whoever they are. Imports little: a proxy needs no torch.
"""

from __future__ import annotations

import os
from typing import Any

from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from .errors import ApiError

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Where Ray Serve's proxies look for a function that returns the middleware that they run."""
RETRIED = (408, 429, 503)
"""Statuses of Ray Serve's own that can be tried again."""
OWN = "/-/"
"""Begin of the paths that Ray Serve answers itself: /-/healthz, /-/routes."""
RETRY_SECONDS = "1"
"""Other replicas are there, or Ray Serve is starting one."""


def install() -> None:
    """Make the proxies of a Ray that this process starts run :func:`middlewares`: they inherit its variables.

    A function that the user has chosen for them stays.
    """
    os.environ.setdefault(VARIABLE, f"{__name__}:{middlewares.__name__}")


def middlewares() -> list[Middleware]:
    """The middleware, as Ray Serve's proxies ask for it."""
    return [Middleware(Retriable)]


class Retriable:
    """ASGI middleware: where ``app`` gives no response, or a plain text that says to try again, an error."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OWN):
            await self.app(scope, receive, send)
            return
        begun, text = False, bytearray()
        # The beginning of a response that is replaced.
        held: Any = None

        async def watched(message: Any) -> None:
            nonlocal begun, held
            if message["type"] == "http.response.start":
                begun = True
                held = message if _is_of_ray(message) else None
            if held is None:
                await send(message)
            else:
                text.extend(message.get("body", b""))

        await self.app(scope, receive, watched)
        error = None
        if held is not None:
            error = ApiError(held["status"], " ".join(text.decode(errors="replace").split()))
        elif not begun:
            error = ApiError(503, "the replica that had this request has ended; send it again")
        if error is not None:
            headers = {"Retry-After": RETRY_SECONDS}
            await JSONResponse(error.body, error.status, headers)(scope, receive, send)


def _is_of_ray(message: Any) -> bool:
    """Whether a response is Ray Serve's own. Errors of the application are JSON."""
    kind = next((value for name, value in message.get("headers", ()) if bytes(name) == b"content-type"), b"")
    return message["status"] in RETRIED and bytes(kind).startswith(b"text/plain")
