"""The engine: one thread that owns the accelerated model and answers batches of prompts."""

from __future__ import annotations

import copy
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from PIL import Image
from torch import nn

from ..api import Handle, accelerate
from ..ask import choose
from ..errors import InputError, UnsupportedError
from ..io.prompts import apply_template
from ..methods import Method
from ..models.located import locate
from .batching import Waiting
from .errors import ApiError, bad_request, failed
from .generation import generate
from .jobs import Failed, Job, Prompt
from .joining import join
from .metrics import Metrics
from .places import Full, Place, Places
from .prompts import check_characters, make_prompt
from .schema import Message
from .settings import Settings

logger = logging.getLogger(__name__)
T = TypeVar("T")
LONGEST_RETRY = 60


class Engine:
    """A model behind a queue. Use it as a context manager, or call :meth:`start` and :meth:`close`.

    Args:
        model, processor: as :func:`illava.models.loading.load` returns them. While the engine runs, nothing
            else may use the model.

    Raises InputError or UnsupportedError if the method of the settings does not fit the model.
    """

    def __init__(self, model: nn.Module, processor: Any, settings: Settings) -> None:
        self.model, self.processor, self.settings = model, processor, settings
        self.modules = locate(model)
        self.method = self.choose(None, None)
        """The method of requests that choose none."""
        default = getattr(self.method, "keep", None)
        if default is not None and default > settings.max_keep:
            raise InputError(
                f"requests that choose nothing would keep {default:.3g}, above --max-keep "
                f"{settings.max_keep:.3g}; give --keep"
            )
        # What does not fit is refused now, not at the first request.
        _accelerate(model, self.method).remove()
        self.context = int(getattr(self.modules.llm.config, "max_position_embeddings", 0) or 2**31)
        """Tokens of a prompt and its answer together that the model takes."""
        self.created = int(time.time())
        self.metrics = Metrics()
        self.places = Places(settings.max_queue)
        self.metrics.watch_waiting(lambda: self.places.taken)
        self._preparing = ThreadPoolExecutor(1, "illava-prepare")
        # Tokenizers are not thread-safe, and both threads use the processor.
        self._processing = threading.Lock()
        # One of its own for decoding, which then waits for nobody.
        self._tokenizer = copy.deepcopy(processor.tokenizer)
        self._longest_token = max(map(len, processor.tokenizer.get_vocab()))
        self._waiting = Waiting(settings.max_batch, settings.max_wait_ms / 1000)
        self._thread = threading.Thread(target=self._work, name="illava-model", daemon=True)
        self._handle: Handle | None = None
        self._batch: list[Job] = []
        self._batch_seconds = 1.0
        """A running mean."""

    # -- for any thread --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the model's thread. Idempotent."""
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        """Cancel all jobs, end the model's thread and restore the model. Idempotent."""
        _dismiss([*self._waiting.close(), *self._batch])
        if self.alive:
            self._thread.join()
        self._release()
        self._preparing.shutdown(cancel_futures=True)

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the model's thread runs."""
        return self._thread.is_alive()

    def enter(self) -> Place:
        """A place among those who wait. Raises ApiError (429) if all are taken."""
        try:
            return self.places.take()
        except Full:
            batches = math.ceil(self.places.most / self.settings.max_batch)
            seconds = min(LONGEST_RETRY, max(1, math.ceil(batches * self._batch_seconds)))
            raise ApiError(
                429,
                f"{self.places.most} requests are waiting; try again in {seconds} s",
                code="queue_full",
                headers={"Retry-After": str(seconds)},
            ) from None

    def choose(self, name: str | None, keep: float | None) -> Method:
        """The method of a request, checked against the model.

        Args:
            name: a method or preset; None: that of the settings.
            keep: None: that of the settings.

        Raises InputError or UnsupportedError.
        """
        named = self.settings.method if name is None else name
        method, _ = choose(self.model, named, self.settings.keep if keep is None else keep)
        try:
            method.plan(self.modules)
        except ValueError as error:
            raise InputError(f"method {method.name}: {error}") from error
        return method

    def submit(self, job: Job) -> None:
        """Queue a job; its listener hears of everything else. Raises ApiError (503) after :meth:`close`."""
        try:
            self._waiting.put(job)
        except RuntimeError:
            raise shutting_down() from None

    def background(self, work: Callable[[], T]) -> Future[T]:
        """Run what decodes pictures and processes prompts in a thread beside the model's, one at a time.

        Raises ApiError (503) after :meth:`close`.
        """
        try:
            return self._preparing.submit(work)
        except RuntimeError:
            raise shutting_down() from None

    def prepare(self, messages: Sequence[Message], pictures: Sequence[Image.Image]) -> Prompt:
        """Process a conversation with its pictures (:func:`make_prompt`). Raises ApiError."""
        check_characters(messages, self.settings.max_prompt_tokens, self._longest_token)
        with self._processing:
            return make_prompt(self.modules, self.processor, messages, pictures)

    # -- the model's thread ----------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while batch := self._waiting.take():
                began = time.monotonic()
                self._batch = batch
                if self._waiting.closed:
                    # close() may have looked for the batch just before it was here.
                    _dismiss(batch)
                self.answer(batch)
                self._batch = []
                self._batch_seconds += 0.25 * (time.monotonic() - began - self._batch_seconds)
        finally:
            # If this thread ends by a fault, those who wait must not wait for ever.
            try:
                _dismiss([*self._waiting.close(), *self._batch])
            finally:
                self._release()

    def answer(self, batch: list[Job]) -> None:
        """Answer prompts of one method and one form together; their listeners hear of everything.

        An engine that was not started answers in the thread that calls this.
        """
        batch = [job for job in batch if not job.cancelled]
        if not batch:
            return
        for job in batch:
            job.place.leave()
        self.metrics.began(len(batch))
        try:
            self._generate(batch)
        except Exception as error:
            self._release()
            # One prompt must not fail the others: those of which nothing has been told are answered alone.
            fresh = [job for job in batch if job.first_token is None and not job.cancelled]
            for job in batch:
                if job not in fresh or len(batch) == 1:
                    job.tell(Failed(_told(error), error))
            for job in fresh if len(batch) > 1 else ():
                self.answer([job])
        finally:
            self.metrics.running.set(0)

    def _generate(self, batch: list[Job]) -> None:
        handle = self._accelerated(batch[0].method)
        inputs = self._inputs([job.prompt for job in batch])
        counts: list[int] = []

        def visual_after(row: int) -> int:
            # The report is made once, when the first row has ended.
            if not counts:
                counts.extend(tokens[-1] for tokens in handle.report.row_tokens)
            return counts[row]

        generate(self.model, inputs, self._tokenizer, batch, visual_after, self.metrics.answered)

    def _inputs(self, prompts: Sequence[Prompt]) -> Any:
        if len(prompts) == 1:
            return prompts[0].inputs
        if (joined := join(self.processor, [prompt.inputs for prompt in prompts])) is not None:
            return joined
        with self._processing:
            return apply_template(self.processor, [prompt.chat for prompt in prompts], prompts[0].form[1])

    def _accelerated(self, method: Method) -> Handle:
        if self._handle is None or self._handle.method != method:
            self._release()
            self._handle = _accelerate(self.model, method)
        return self._handle

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _accelerate(model: nn.Module, method: Method) -> Handle:
    try:
        return accelerate(model, method)
    except ValueError as error:
        raise InputError(f"method {method.name}: {error}") from error


def shutting_down() -> ApiError:
    """The error for requests that a closing engine does not answer."""
    return ApiError(503, "the server is shutting down")


def _dismiss(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.tell(Failed(shutting_down()))
        job.cancel()


def _told(error: Exception) -> ApiError:
    """What a client is told of an error of the model's thread."""
    if isinstance(error, (InputError, UnsupportedError)):
        return bad_request(" ".join(str(error).split()))
    logger.error("a prompt could not be answered: %s: %s", type(error).__name__, error, exc_info=error)
    if type(error).__name__ == "OutOfMemoryError":
        return ApiError(503, "too little memory for this prompt; send fewer or smaller pictures")
    return failed()
