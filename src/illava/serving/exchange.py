"""One request to ``/v1/chat/completions``, from its arrival to the end of its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ..errors import UnsupportedError
from ..methods import Method
from .answers import Answers, event
from .engine import Engine, shutting_down
from .errors import ApiError, bad_request
from .fetching import Fetcher
from .jobs import Done, Event, Failed, Job, Piece
from .pictures import check_counts, is_data, load_pictures
from .prompts import check_length
from .sampling import Sampling
from .schema import ChatRequest, parse
from .settings import Settings
from .upload import MB, ClientLeft, Upload

T = TypeVar("T")
CLIENT_LEFT = 499
"""Nobody sees this status but the metrics."""


class Exchange:
    """One request and its answer. It holds a place in the queue until its batch begins.

    Raises ApiError if the queue is full.
    """

    def __init__(
        self, request: Request, upload: Upload, engine: Engine, settings: Settings, fetcher: Fetcher
    ) -> None:
        self.request, self.upload, self.engine = request, upload, engine
        self.settings, self.fetcher = settings, fetcher
        self.place = engine.enter()
        self.arrived = time.monotonic()
        self.deadline = self.arrived + settings.timeout
        self.events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        """What becomes of the job, or what ends the wait for it. One task reads it."""
        self.pieces: list[str] = []
        """Of an answer that is not streamed: its tokens do not wake the event loop."""
        self.job: Job | None = None
        self.complete = False
        """Whether the job has ended by itself."""
        self._gone: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def answer(self) -> Response:
        """The response: an answer, or a stream of its pieces. Raises ApiError."""
        streaming = False
        try:
            announced = self.request.headers.get("content-length", "")
            body = await self.upload.read(announced, round(self.settings.max_request_mb * MB))
            self._gone = asyncio.create_task(self.upload.left())
            wanted, job = await self._first(self._prepare(body))
            self.job = job
            self._watch(self._gone)
            self.engine.submit(job)
            with_usage = wanted.stream_options is not None and wanted.stream_options.include_usage
            answers = Answers(self.settings.name, job.prompt.length, with_usage)
            # The first event: what fails before it has a status of its own, even if the answer is streamed.
            first = await self._next()
            if wanted.stream:
                streaming = True
                return StreamingResponse(
                    self._stream(answers, first),
                    media_type="text/event-stream",
                    headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
                )
            assert isinstance(first, Done)
            return JSONResponse(answers.whole("".join(self.pieces), first))
        except ClientLeft:
            return Response(status_code=CLIENT_LEFT)
        finally:
            if not streaming:
                self.end()

    def end(self) -> None:
        """Stop the job, if it runs, and give the place back. Idempotent."""
        self.place.leave()
        if self.job is not None and not self.job.cancelled:
            self.job.cancel()
            if not self.complete:
                self.engine.metrics.cancelled.inc()
        if self._gone is not None:
            self._gone.cancel()
        if self._timer is not None:
            self._timer.cancel()

    # -- reading ---------------------------------------------------------------------------------------------

    async def _prepare(self, body: bytes) -> tuple[ChatRequest, Job]:
        settings, engine = self.settings, self.engine
        wanted = await asyncio.to_thread(parse, body)
        if wanted.model != settings.name:
            raise unknown_model(wanted.model, settings)
        method = choose_method(wanted, engine, settings)
        sources = list(wanted.sources())
        check_counts(sources, settings)
        remote = dict.fromkeys(url for _, url in sources if not is_data(url))
        fetched = {url: await self.fetcher.fetch(url, "messages") for url in remote}

        def process() -> Job:
            prompt = engine.prepare(wanted.messages, load_pictures(sources, fetched, settings))
            most = check_length(
                prompt, settings.max_prompt_tokens, wanted.most_tokens, settings.max_tokens, engine.context
            )
            sampling = Sampling(
                settings.temperature if wanted.temperature is None else wanted.temperature,
                1.0 if wanted.top_p is None else wanted.top_p,
                wanted.seed,
            )
            stops = tuple(wanted.stop or ())
            return Job(prompt, method, most, listener, self.place, sampling, stops, self.arrived)

        loop = asyncio.get_running_loop()

        def listener(event: Event) -> None:
            if isinstance(event, Piece) and not wanted.stream:
                self.pieces.append(event.text)
                return
            # The loop is closed if the server was stopped meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self.events.put_nowait, event)

        return wanted, await asyncio.wrap_future(engine.background(process))

    # -- answering -------------------------------------------------------------------------------------------

    async def _first(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, or ClientLeft, or ApiError (504) when time is up: what comes first."""
        assert self._gone is not None
        task = asyncio.ensure_future(work)
        left = max(0.0, self.deadline - time.monotonic())
        try:
            done, _ = await asyncio.wait(
                {task, self._gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            if not task.done():
                task.cancel()
        if task in done:
            if task.cancelled():
                raise shutting_down()
            return task.result()
        if self._gone in done:
            raise ClientLeft
        raise self._late()

    def _late(self) -> ApiError:
        return ApiError(504, f"the answer took longer than {self.settings.timeout:g} s", code="timeout")

    def _watch(self, gone: asyncio.Task[None]) -> None:
        """End the wait for events when the client leaves, and when time is up."""

        def left(_: object) -> None:
            self.end()
            self.events.put_nowait(ClientLeft())

        gone.add_done_callback(left)
        seconds = max(0.0, self.deadline - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(
            seconds, lambda: self.events.put_nowait(self._late())
        )

    async def _next(self) -> Event:
        event = await self.events.get()
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Failed):
            self.complete = True
            raise event.error
        self.complete = isinstance(event, Done)
        return event

    async def _stream(self, answers: Answers, first: Event) -> AsyncIterator[bytes]:
        try:
            yield answers.chunk({"role": "assistant", "content": ""})
            found = first
            while isinstance(found, Piece):
                if found.text:
                    yield answers.chunk({"content": found.text})
                found = await self._next()
            assert isinstance(found, Done)
            yield answers.last(found)
        except ApiError as error:
            yield event(error.body)
        except ClientLeft:
            pass
        finally:
            self.end()


def unknown_model(name: str, settings: Settings) -> ApiError:
    """The error for a model that the server does not have."""
    said = f"the model {name[:200]!r} does not exist; this server has {settings.name!r}"
    return ApiError(404, said, param="model", code="model_not_found")


def choose_method(wanted: ChatRequest, engine: Engine, settings: Settings) -> Method:
    """The method of a request, within what the server allows. Raises ApiError."""
    if wanted.method is None and wanted.keep is None:
        return engine.method
    keep = wanted.share
    if keep is not None and not settings.min_keep <= keep <= settings.max_keep:
        said = f"keep is {keep:g}, and this server allows {settings.min_keep:g} to {settings.max_keep:g}"
        raise bad_request(said, "keep", "not_allowed")
    allowed = {*settings.allowed_methods, *([settings.method] if settings.method else [])}
    if wanted.method is not None and wanted.method not in allowed:
        known = f"allows {', '.join(sorted(allowed))}" if allowed else "has one method only"
        raise bad_request(f"method {wanted.method[:100]!r}: this server {known}", "method", "not_allowed")
    try:
        return engine.choose(wanted.method, keep)
    except (ValueError, UnsupportedError) as error:
        param = "keep" if wanted.method is None else "method"
        raise bad_request(" ".join(str(error).removeprefix("--method ").split()), param) from error
