"""The application: routes, access, errors and metrics. Any ASGI server can run it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from .engine import Engine
from .errors import ApiError, failed
from .exchange import CLIENT_LEFT, Exchange, unknown_model
from .fetching import Fetcher
from .metrics import Metrics
from .settings import Settings
from .upload import MB, Upload

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN = ("/health",)
"""Paths that need no key."""


def create_app(engine: Engine, settings: Settings, fetcher: Fetcher | None = None) -> FastAPI:
    """The application that answers with an engine.

    The engine starts with the application's lifespan, if it does not run yet, and is closed with it.

    Args:
        settings: those that the engine was made with.
        fetcher: fetches pictures; default: from ``settings.allowed_hosts``.
    """
    fetcher = fetcher or Fetcher(settings.allowed_hosts, round(settings.max_picture_mb * MB))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.close)
            await fetcher.close()

    # No pages of FastAPI: they would load scripts from elsewhere.
    off: dict[str, Any] = {
        "docs_url": None,
        "redoc_url": None,
        "openapi_url": None,
        "redirect_slashes": False,
    }
    app = FastAPI(title="illava", lifespan=lifespan, **off)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _other_error)
    app.add_middleware(_Access, api_key=settings.api_key)
    paths = {"/v1/chat/completions", "/v1/models", "/health", "/metrics"}
    app.add_middleware(_Counting, metrics=engine.metrics, paths=paths)
    model = {"id": settings.name, "object": "model", "created": engine.created, "owned_by": "illava"}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        upload = Upload(request.receive)
        try:
            return await answer(request, upload)
        except ApiError:
            await upload.drain()
            raise

    async def answer(request: Request, upload: Upload) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # Browsers ask first before a page of another site may send this type.
            raise ApiError(415, "the Content-Type must be application/json")
        return await Exchange(request, upload, engine, settings, fetcher).answer()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != settings.name:
            raise unknown_model(name, settings)
        return model

    @app.get("/health")
    async def health() -> Response:
        if not engine.alive:
            return JSONResponse({"status": "the model's thread does not run"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(engine.metrics.text(), media_type=METRICS_TYPE)

    return app


def _respond(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


async def _api_error(request: Request, error: Any) -> Response:
    return _respond(error)


async def _http_error(request: Request, error: Any) -> Response:
    """Unknown paths and methods."""
    path = " ".join(request.scope["path"].split())
    said = f"{request.method} {path}: {error.detail}"
    return _respond(ApiError(error.status_code, said, headers=error.headers))


async def _other_error(request: Request, error: Any) -> Response:
    return _respond(failed())


class _Access:
    """Refuses requests without the key, before anything of them is read."""

    def __init__(self, app: Any, api_key: str | None) -> None:
        self.app, self.expected = app, None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and self.expected is not None and scope["path"] not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self.expected):
                error = ApiError(
                    401,
                    "give the server's API key: Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await Upload(receive).drain()
                await _respond(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class _Counting:
    """Counts requests by path and status."""

    def __init__(self, app: Any, metrics: Metrics, paths: set[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = CLIENT_LEFT

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except Exception:
            # The response to it is made further out.
            status = 500
            raise
        finally:
            # Any path can be asked for: only known ones get a count of their own.
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, str(status)).inc()
