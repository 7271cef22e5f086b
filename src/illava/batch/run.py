"""Reads IN, hands its rows out in chunks, and writes what comes back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.files import check_free, protect
from ..serving.errors import ApiError
from ..serving.settings import Settings
from ..serving.source import Source
from .files import Line, picture_sizes, read_lines
from .order import Sized, chunks, sized
from .results import Results, beside
from .rows import BadRow, changed, read_row
from .worker import Outcome, Worker

Chunks = list[list[Line]]
Outcomes = Generator[Outcome, None, None]
Answering = Callable[[Source, Settings, Path, Chunks], Outcomes]
"""Yields what became of each chunk, in any order."""


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    answered: int
    """Rows that it answered."""
    before: int
    """Rows that were answered already."""
    bad: int
    """Rows that could not be answered."""
    first: str
    """The reason of the first of these."""
    side: Path
    """Where they are."""


class Batch:
    """IN and OUT of a run. Use it as a context manager.

    Args:
        source, settings: the model, and how its answers are made.

    Raises InputError if IN cannot be read or has no row, and as :class:`Results` does.
    """

    def __init__(self, path: Path, out: Path, source: Source, settings: Settings) -> None:
        # Workers have working directories of their own.
        self.path, self.source, self.settings = path.absolute(), source, settings
        protect(path)
        for file in (out, beside(out, ".bad.jsonl"), beside(out, ".run.json")):
            check_free(file)
        with reading(path):
            if not path.is_file():
                raise InputError(
                    f"{path}: {'not a file' if path.exists() else 'no such file'}; give the rows"
                )
            self.lines = [line for line, _ in read_lines(path)]
        if not self.lines:
            raise InputError(f"{path}: it is empty; give one JSON object a line")
        self.results = Results(out, identity(source, settings), self.lines)
        self.first = ""

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self.results.close()

    @property
    def left(self) -> int:
        """Rows without an answer."""
        return len(self.lines) - len(self.results.done)

    def plan(self, advance: Callable[[int], None]) -> Chunks:
        """Check the rows that are not answered, note the bad ones, and cut the others into chunks.

        Lines that were appended to IN since it was read are left to the next run.

        Args:
            advance: called with the number of rows checked.

        Raises InputError if IN cannot be read.
        """
        rows: list[Sized] = []
        bad: list[dict[str, Any]] = []
        left = {line.number: line.digest for line in self.lines if line.number not in self.results.done}
        with reading(self.path):
            for line, text in read_lines(self.path):
                if line.number not in left:
                    continue
                try:
                    if line.digest != left[line.number]:
                        raise changed(line.number)
                    rows.append(self._check(line, text))
                except BadRow as found:
                    bad.append(found.to_dict())
                advance(1)
        self._append(Outcome(bad=bad))
        return chunks(rows, self.settings.max_batch)

    def answer(self, answering: Answering, planned: Chunks, advance: Callable[[int], None]) -> Summary:
        """Answer the chunks, and write each as soon as it is done.

        Args:
            answering: :func:`in_this_process`, or that of :mod:`illava.batch.on_ray`.
            advance: called with the number of rows done.
        """
        before = len(self.results.done)
        if planned:
            # Whatever happens, the workers are ended.
            with closing(answering(self.source, self.settings, self.path, planned)) as outcomes:
                for outcome in outcomes:
                    self._append(outcome)
                    advance(len(outcome.answers) + len(outcome.bad))
        self.results.finish()
        answered = len(self.results.done) - before
        return Summary(answered, before, self.results.failed, self.first, self.results.bad)

    def _append(self, outcome: Outcome) -> None:
        if outcome.bad and not self.first:
            self.first = f"row {outcome.bad[0]['row']}: {outcome.bad[0]['error']}"
        self.results.append(outcome)

    def _check(self, line: Line, text: bytes) -> Sized:
        if not text:
            raise BadRow(line.number, None, f"the row has {line.size:,} bytes, which is too long")
        row = read_row(line.number, text, self.settings.name)
        try:
            return sized(line, row, picture_sizes(row.request, self.path.parent, self.settings))
        except ApiError as error:
            raise BadRow(row.number, row.name, error.message) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that names IN."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def in_this_process(source: Source, settings: Settings, path: Path, planned: Chunks) -> Outcomes:
    """Answer chunks one after the other, without Ray. Raises InputError if IN cannot be read."""
    worker = Worker(source, settings, path)
    try:
        for lines in planned:
            with reading(path):
                outcome = worker.answer(lines)
            yield outcome
    finally:
        worker.close()


def identity(source: Source, settings: Settings) -> dict[str, Any]:
    """What answers depend on, beside the rows."""
    chosen = ("name", "keep", "method", "temperature", "max_tokens")
    fixed = {"model": source.model, "dtype": source.dtype}
    return {**fixed, **{name: getattr(settings, name) for name in chosen}}
