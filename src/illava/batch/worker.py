"""Answers chunks of rows with one engine, which loads and accelerates its model once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError, UnsupportedError
from ..methods import Method
from ..serving.answers import Answers, usage
from ..serving.batching import alike
from ..serving.engine import Engine
from ..serving.errors import ApiError, bad_request
from ..serving.jobs import Done, Event, Failed, Job, Piece
from ..serving.places import Places
from ..serving.prompts import check_length
from ..serving.sampling import Sampling
from ..serving.schema import ChatRequest
from ..serving.settings import Settings
from ..serving.source import Source
from .files import Line, digest_of, open_pictures
from .rows import BadRow, Row, changed, read_row

T = TypeVar("T")


@dataclass
class Outcome:
    """What became of the rows of a chunk."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    """Lines of OUT."""
    bad: list[dict[str, Any]] = field(default_factory=list)
    """Lines of the side file."""


class Worker:
    """Loads and accelerates a model, and answers rows with it.

    Args:
        settings: ``max_tokens`` is what rows get that name none, and no limit.
        path: IN; pictures are relative to its folder.

    Raises what loading raises, InputError or UnsupportedError if the method does not fit the model.
    """

    def __init__(self, source: Source, settings: Settings, path: Path) -> None:
        self.engine: Engine = source.engine(settings)
        self.settings, self.path = settings, path
        self._methods: dict[tuple[str | None, float | None], Method] = {(None, None): self.engine.method}

    def answer(self, lines: Sequence[Line]) -> Outcome:
        """Answer the rows of these lines, in batches of neighbours.

        The prompts of a batch are made while the batch before is answered. A row that fails in a batch is
        answered once more, alone. Raises OSError if IN cannot be read.
        """
        outcome = Outcome()
        for batch in ahead(batches(self._prepared(lines, outcome), self.settings), self.engine.background):
            self.engine.answer([task.job for task in batch])
            for task in batch:
                if task.worth_repeating and len(batch) > 1:
                    task.renew()
                    self.engine.answer([task.job])
                task.report(outcome)
        return outcome

    def refuse(self, lines: Sequence[Line], reason: str) -> Outcome:
        """Answer none of these rows, for this reason. Raises OSError if IN cannot be read."""
        outcome = Outcome()
        for row in self._rows(lines, outcome):
            outcome.bad.append(BadRow(row.number, row.name, reason).to_dict())
        return outcome

    def close(self) -> None:
        """Restore the model."""
        self.engine.close()

    def _rows(self, lines: Iterable[Line], outcome: Outcome) -> Iterator[Row]:
        with self.path.open("rb") as file:
            for line in lines:
                file.seek(line.offset)
                text = file.read(line.size)
                try:
                    if digest_of(text) != line.digest:
                        raise changed(line.number)
                    yield read_row(line.number, text, self.settings.name)
                except BadRow as bad:
                    outcome.bad.append(bad.to_dict())

    def _prepared(self, lines: Iterable[Line], outcome: Outcome) -> Iterator[Task]:
        for row in self._rows(lines, outcome):
            try:
                yield self._prepare(row)
            except BadRow as bad:
                outcome.bad.append(bad.to_dict())

    def _prepare(self, row: Row) -> Task:
        """Raises BadRow."""
        wanted, settings = row.request, self.settings
        try:
            method = self._method(wanted)
            pictures = open_pictures(wanted, self.path.parent, settings)
            prompt = self.engine.prepare(wanted.messages, pictures)
            asked = wanted.most_tokens
            most = check_length(
                prompt, settings.max_prompt_tokens, asked, asked or settings.max_tokens, self.engine.context
            )
        except ApiError as error:
            raise BadRow(row.number, row.name, error.message) from error
        except Exception as error:
            # One row must not end the run: it would end every run that continues it, too.
            raise BadRow(row.number, row.name, f"{type(error).__name__}: {error}") from error
        sampling = Sampling(
            settings.temperature if wanted.temperature is None else wanted.temperature,
            1.0 if wanted.top_p is None else wanted.top_p,
            wanted.seed,
        )

        def job(listener: Callable[[Event], None]) -> Job:
            stops = tuple(wanted.stop or ())
            return Job(prompt, method, most, listener, Places(1).take(), sampling, stops)

        return Task(row, settings.name, job)

    def _method(self, wanted: ChatRequest) -> Method:
        """The method of a row. Raises ApiError."""
        key = (wanted.method, wanted.share)
        if key not in self._methods:
            try:
                self._methods[key] = self.engine.choose(*key)
            except (InputError, UnsupportedError) as error:
                raise bad_request(" ".join(str(error).removeprefix("--method ").split())) from error
        return self._methods[key]


class Task:
    """A row on its way through the engine.

    Args:
        job: makes a job that reports to a listener.
    """

    def __init__(self, row: Row, model: str, job: Callable[[Callable[[Event], None]], Job]) -> None:
        self.row, self.model, self._job = row, model, job
        self.renew()

    def renew(self) -> None:
        """Forget what happened, so that the row can be answered again."""
        self.text, self.end = "", None
        self.job = self._job(self._hear)

    end: Done | Failed | None
    """How the answer ended."""

    def _hear(self, event: Event) -> None:
        if isinstance(event, Piece):
            self.text += event.text
        else:
            self.end = event

    @property
    def worth_repeating(self) -> bool:
        """Whether it failed for a reason that may lie in the rest of its batch, such as too little memory."""
        failed = self.end.error if isinstance(self.end, Failed) else None
        return isinstance(failed, ApiError) and failed.status >= 500

    def report(self, outcome: Outcome) -> None:
        """Add the answer, or the reason why there is none."""
        row, tokens = self.row, self.job.prompt.length
        if isinstance(self.end, Done):
            done = self.end
            if row.openai:
                outcome.answers.append(
                    in_openai_shape(row, Answers(self.model, tokens).whole(self.text, done))
                )
            else:
                answer = {"row": row.number, "id": row.name, "answer": self.text}
                outcome.answers.append({**answer, "finish_reason": done.reason, "usage": usage(tokens, done)})
            return
        assert self.end is not None
        error, cause = self.end.error, self.end.cause
        reason = str(error)
        if self.worth_repeating and cause is not None:
            reason = f"{type(cause).__name__}: {cause}"
        outcome.bad.append(BadRow(row.number, row.name, reason).to_dict())


def in_openai_shape(row: Row, body: dict[str, Any]) -> dict[str, Any]:
    """An answer as a line of OpenAI's output files, with the row's number besides."""
    name = f"row-{row.number}"
    response = {"status_code": 200, "request_id": name, "body": body}
    return {"row": row.number, "id": name, "custom_id": row.name, "response": response, "error": None}


def batches(tasks: Iterable[Task], settings: Settings) -> Iterator[list[Task]]:
    """Neighbours that can be answered together, ``max_batch`` at most. It does not depend on timing."""
    batch: list[Task] = []
    for task in tasks:
        lengths = [other.job.prompt.length for other in (*batch, task)]
        fits = not batch or (batch[0].job.batches_with(task.job) and alike(lengths))
        if not fits or len(batch) == settings.max_batch:
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch


def ahead(
    items: Iterator[T], background: Callable[[Callable[[], T | None]], Future[T | None]]
) -> Iterator[T]:
    """The same items; each is made in the background while the one before is in use."""
    making = background(lambda: next(items, None))
    while (item := making.result()) is not None:
        making = background(lambda: next(items, None))
        yield item
