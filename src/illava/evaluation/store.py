"""The folder of an evaluation, which stays valid if the process is killed at any moment.

``settings.json`` identifies the run, so that the answers of different runs are not mixed. ``answers.jsonl``
has one JSON line per answer and only grows, by whole lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import InputError
from ..io.files import check_free, replacing, to_json
from ..io.json_lines import JsonLines

SETTINGS, ANSWERS = "settings.json", "answers.jsonl"
GROWING = ("limit", "tasks", "rows")
"""The settings that may grow when a run is continued; all others must be the same."""

Line = dict[str, Any]


class Store:
    """The folder of an evaluation, locked by one process at a time. Use it as a context manager.

    Args:
        folder: created if missing.
        settings: JSON-ready. ``limit`` is a number, ``tasks`` and ``rows`` are dictionaries by name.

    Raises InputError if the folder is not usable, holds a run with other settings, or is in use.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self._file: JsonLines | None = None
        check_free(self.folder)
        check_free(self.folder / ANSWERS)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            known = self._known_settings()
            if known is not None:
                check_settings(self.folder, known, settings)
            self.settings = settings
            busy = f"{self.folder}: another evaluation is using it; wait, or give another --output"
            self._file = JsonLines(self.folder / ANSWERS, busy, "correct it or give another --output")
            lines: dict[tuple[str, str, int], Line] = {}
            for key, line in self._file.read(_key):
                lines.setdefault(key, line)
            self.lines = list(lines.values())
            """All answers so far, without duplicates."""
            write_json(self.folder / SETTINGS, self.settings)
        except OSError as error:
            self.close()
            raise InputError(f"{self.folder}: cannot write there: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise
        self._done = set(lines)

    def done(self, row: str, task: str, sample: int) -> bool:
        """Whether the store holds this answer."""
        return (row, task, sample) in self._done

    def append(self, lines: Iterable[Line]) -> None:
        """Append answers and flush them to disk; answers that the store already holds are skipped."""
        fresh = [line for line in lines if _key(line) not in self._done]
        assert self._file is not None
        self._file.append(fresh)
        self.lines += fresh
        self._done |= {_key(line) for line in fresh}

    def close(self) -> None:
        """Release the folder."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _known_settings(self) -> dict[str, Any] | None:
        path = self.folder / SETTINGS
        if not path.exists():
            answers = self.folder / ANSWERS
            if answers.exists() and answers.stat().st_size:
                raise InputError(f"{self.folder}: it has {ANSWERS} but no {SETTINGS}; give another --output")
            return None
        try:
            known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            known["limit"], known["tasks"].items(), known["rows"].items()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{path}: not the settings of an evaluation: {error}; give another --output"
            ) from error
        return known


def check_settings(folder: Path, known: dict[str, Any], requested: dict[str, Any]) -> None:
    """Raise InputError with all differences unless the requested run continues or extends the known one."""
    pairs = [(key, known.get(key), value) for key, value in requested.items() if key not in GROWING]
    for kind in ("tasks", "rows"):
        for name, value in requested[kind].items():
            pairs.append((f"{kind.removesuffix('s')} {name}", known[kind].get(name, value), value))
        missing = [name for name in known[kind] if name not in requested[kind]]
        if missing:
            pairs.append((kind, ", ".join(missing), "none"))
    different = [f"{key} {_short(old)} there, {_short(new)} here" for key, old, new in pairs if old != new]
    if requested["limit"] < known["limit"]:
        different.append(f"limit {known['limit']} there, {requested['limit']} here (it can only grow)")
    if different:
        raise InputError(
            f"{folder}: it holds a run with other settings: {'; '.join(different)}; "
            "give the same settings to continue it, or another --output"
        )


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with replacing(path) as partial:
        partial.write_text(to_json(value, indent=2) + "\n", encoding="utf-8")


def _key(line: Line) -> tuple[str, str, int]:
    return line["row"], line["task"], line["sample"]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
