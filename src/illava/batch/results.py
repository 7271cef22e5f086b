"""OUT and the files beside it, which stay valid if the process is killed at any moment.

OUT has a JSON line for each answered row and grows by whole chunks; when no row is left, its lines are put
into the order of IN. ``OUT.bad.jsonl`` has the rows that could not be answered, and begins anew with each
run. ``OUT.run.json`` identifies the run: its settings, and a digest of every line of IN.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import InputError
from ..io.files import check_free, replacing, to_json
from ..io.json_lines import JsonLines
from .files import Line
from .worker import Outcome

FORMAT = 1


class Results:
    """OUT, locked by one process at a time. Use it as a context manager.

    Args:
        out: created if missing.
        settings: JSON-ready; what answers depend on. A stopped run can be continued with the same ones only.
        lines: those of IN.

    Raises InputError if the files cannot be written, hold answers of another run, or are in use, and if a
    line of IN has changed since it was answered.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], lines: list[Line]) -> None:
        self.out, self.bad, self.run = out, beside(out, ".bad.jsonl"), beside(out, ".run.json")
        self._answers: JsonLines | None = None
        self._side: JsonLines | None = None
        advice = "correct it, or give another file for the answers"
        try:
            known = self._known(settings)
            busy = f"{out}: another run writes to it; wait for its end, or give another file"
            self._answers = JsonLines(out, busy, advice)
            if known is None and out.stat().st_size:
                raise InputError(f"{out}: it has lines, but there is no {self.run.name}; give another file")
            self.done: set[int] = {row for row, _ in self._answers.read(row_of)}
            """Numbers of the rows that are answered."""
            if known is not None:
                _check_digests(out, known["lines"], lines, self.done)
            digests = {str(line.number): line.digest for line in lines}
            with replacing(self.run) as partial:
                partial.write_text(json.dumps({"format": FORMAT, "settings": settings, "lines": digests}))
            check_free(self.bad)
            self.bad.unlink(missing_ok=True)
        except OSError as error:
            self.close()
            raise InputError(f"{out}: cannot write there: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise
        self.failed = 0
        """Rows that could not be answered in this run."""

    def append(self, outcome: Outcome) -> None:
        """Add what became of a chunk; rows that are answered already are skipped. Raises InputError."""
        assert self._answers is not None
        fresh = [line for line in outcome.answers if line["row"] not in self.done]
        self._answers.append(fresh)
        self.done |= {line["row"] for line in fresh}
        if outcome.bad:
            try:
                self._side = self._side or JsonLines(self.bad, f"{self.bad}: another run writes to it", "")
            except OSError as error:
                raise InputError(f"{self.bad}: cannot write: {error.strerror or error}") from error
            self._side.append(outcome.bad)
            self.failed += len(outcome.bad)

    def finish(self) -> None:
        """Put the lines of OUT into the order of IN. Raises InputError."""
        places: list[tuple[int, int, int]] = []
        try:
            with self.out.open("rb") as file:
                offset = 0
                for piece in file:
                    places.append((row_of(json.loads(piece)), offset, len(piece)))
                    offset += len(piece)
                if places == sorted(places):
                    return
                with replacing(self.out) as partial, partial.open("wb") as target:
                    for _, start, size in sorted(places):
                        file.seek(start)
                        target.write(file.read(size))
                    target.flush()
                    os.fsync(target.fileno())
        except OSError as error:
            raise InputError(f"{self.out}: cannot write: {error.strerror or error}") from error

    def close(self) -> None:
        """Release the files. Idempotent."""
        for file in (self._answers, self._side):
            if file is not None:
                file.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _known(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the file of an earlier run says; None if there is none. Raises InputError and OSError."""
        if not self.run.exists():
            return None
        try:
            known: dict[str, Any] = json.loads(self.run.read_text(encoding="utf-8"))
            before, _ = known["settings"].copy(), known["lines"].items()
            if known["format"] != FORMAT:
                raise ValueError(f"its format is {known['format']!r}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{self.run}: not written by illava batch: {error}; give another file"
            ) from error
        pairs = [(key, before.get(key), settings.get(key)) for key in sorted({*before, *settings})]
        different = [
            f"{key} {to_json(old)} there, {to_json(new)} here" for key, old, new in pairs if old != new
        ]
        if different:
            raise InputError(
                f"{self.out}: it has answers of a run with other settings: {'; '.join(different)}; give the "
                "same ones to continue it, or another file"
            )
        return known


def row_of(line: Any) -> int:
    """The number of the row that a line of OUT answers. Raises ValueError, TypeError or KeyError."""
    row = line["row"]
    if not isinstance(row, int):
        raise ValueError("row is no number")
    return row


def beside(out: Path, ending: str) -> Path:
    """The file of another ending beside OUT: ``answers.bad.jsonl`` for ``answers.jsonl``."""
    return out.with_name(out.name.removesuffix(".jsonl") + ending)


def _check_digests(out: Path, known: Mapping[str, str], lines: list[Line], done: set[int]) -> None:
    now = {line.number: line.digest for line in lines}
    changed = sorted(row for row in done if known.get(str(row)) != now.get(row))
    if changed:
        more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        raise InputError(
            f"{out}: row {changed[0]}{more} changed since it was answered; give another file for the answers"
        )
