"""Anyone's data: a folder with ``samples.jsonl``, one question a line.

Each line is a JSON object:

``picture`` or ``pictures`` or ``video``
    A picture's path; or a list of them, shown in that order; or the path of a video file (needs PyAV) or of
    a folder of frames, which are shown in the order of their names. Paths are relative to the folder and
    stay inside it. Of a longer video 32 frames are shown, evenly spaced.
``question``
    A text.
``answer`` or ``answers``
    A text or number; or a list of those, any of which counts as right. Compared without regard to case, outer
    spaces and a final full stop.
``kind``
    Optional: a text to break results down by.

Empty lines and other fields are ignored::

    {"picture": "cats/1.jpg", "question": "How many cats are there?", "answers": ["2", "two"]}
    {"pictures": ["a.png", "b.png"], "question": "Which picture is brighter?", "answer": "the second"}
    {"video": "clips/7", "question": "Which way does it go?", "answer": "left", "kind": "motion"}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pictures import InputError, open_picture
from ..video import read_video
from .samples import Sample

FILE_NAME = "samples.jsonl"
MAX_LINE = 1_000_000
"""Bytes; a longer line is not read."""


@dataclass(frozen=True)
class Entry:
    """One good line."""

    line: int
    """From 1."""
    question: str
    answers: tuple[str, ...]
    pictures: tuple[str, ...] = ()
    video: str = ""
    kind: str = ""


class FolderTask:
    """The questions of a folder, checked.

    Every line is checked for its form and its files; pictures and videos are opened for the first
    ``limit`` good lines.

    Args:
        skip_bad: leave bad lines out, listed in ``bad``, instead of refusing the folder.

    Raises InputError when there is no good line, and, without ``skip_bad``, for bad ones: all by line number
    and reason.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int, skip_bad: bool = False) -> None:
        # Absolute, as "demo/..." alone would be one of the pictures that ship with illava.
        self.folder = Path(folder).resolve()
        self.name = self.folder.name
        self.description = f"the questions in {folder}"
        self.bad: list[str] = []
        """What is wrong with which line, e.g. "line 3: no question"."""
        self._digest = hashlib.sha256()
        self._limit, self._skip_bad = limit, skip_bad
        self.entries = self._check_files(self._read(), limit)
        self._refuse()
        self.fingerprint = self._digest.hexdigest()[:16]
        """Changes with the lines and with the sizes of the files."""

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> Sample:
        entry = self.entries[number]
        try:
            pictures = tuple(open_picture(self.folder / name) for name in entry.pictures)
            video = read_video(self.folder / entry.video) if entry.video else ()
        except InputError as error:
            raise InputError(f"{self.folder / FILE_NAME}: line {entry.line}: {error}") from error
        return Sample(
            task=self.name,
            number=number,
            question=entry.question,
            answers=entry.answers,
            pictures=pictures,
            video=video,
            cluster="|".join(entry.pictures) or entry.video,
            kind=entry.kind,
        )

    def check(self, try_prompt: Callable[[Sample], object]) -> None:
        """Leave out, or refuse, what the model's processor cannot take; then nothing stops a run halfway.

        Args:
            try_prompt: makes a prompt of a sample, raising InputError where that cannot be.

        Raises InputError as the constructor does.
        """
        good: list[Entry] = []
        for number, entry in enumerate(self.entries):
            if len(good) < self._limit:
                try:
                    try_prompt(self[number])
                except InputError as error:
                    self.bad.append(f"line {entry.line}: {error}")
                    continue
            good.append(entry)
        self.entries = good
        self._refuse()

    def _refuse(self) -> None:
        """Raise InputError where bad lines are not to be skipped, and where there are no good ones."""
        self.bad.sort(key=lambda reason: int(reason.split(":")[0].removeprefix("line ")))
        if self.bad and not self._skip_bad:
            raise InputError(
                f"{self.folder / FILE_NAME}: {'; '.join(self.bad)}; mend these, or use --skip-bad"
            )
        if not self.entries:
            raise InputError(
                f"{self.folder / FILE_NAME}: there is no line to use"
                + "".join(f"; {reason}" for reason in self.bad)
            )

    def _read(self) -> list[Entry]:
        path, entries = self.folder / FILE_NAME, []
        try:
            with path.open("rb") as file:
                number = 0
                while piece := file.readline(MAX_LINE + 1):
                    number += 1
                    self._digest.update(piece)
                    if len(piece) > MAX_LINE:
                        raise InputError(f"{path}: line {number} has more than {MAX_LINE} bytes")
                    if not piece.strip():
                        continue
                    try:
                        entries.append(self._entry(number, piece))
                    except ValueError as error:
                        self.bad.append(f"line {number}: {error}")
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read: {error.strerror or error}; a folder of questions needs {FILE_NAME}"
            ) from error
        return entries

    def _entry(self, line: int, piece: bytes) -> Entry:
        """Raises ValueError saying what is wrong."""
        try:
            row = json.loads(piece)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError("not a JSON object")
        question, kind = row.get("question"), row.get("kind", "")
        if not isinstance(question, str) or not question.strip():
            raise ValueError("no question, which must be a text")
        if not isinstance(kind, str):
            raise ValueError("kind must be a text")
        shown = [key for key in ("picture", "pictures", "video") if key in row]
        if len(shown) != 1:
            raise ValueError("give one of picture, pictures and video")
        given = row[shown[0]] if shown[0] == "pictures" else [row[shown[0]]]
        if not isinstance(given, list) or not given:
            raise ValueError("pictures must be a list with at least one path")
        names = tuple(self._path(shown[0], name) for name in given)
        if shown[0] == "video":
            return Entry(line, question, _answers(row), video=names[0], kind=kind)
        return Entry(line, question, _answers(row), pictures=names, kind=kind)

    def _path(self, key: str, name: Any) -> str:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{key} must be a path, not {json.dumps(name)}")
        if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == "..":
            raise ValueError(f"{name}: paths must be relative to the folder and stay inside it")
        try:
            place = self.folder / name
            sizes = [place.stat().st_size]
            if place.is_dir():
                sizes = [file.stat().st_size for file in sorted(place.iterdir())]
        except (OSError, ValueError):
            raise ValueError(f"{name}: no such file") from None
        self._digest.update(f"{name} {sizes}\n".encode(errors="replace"))
        return name

    def _check_files(self, entries: list[Entry], limit: int) -> list[Entry]:
        """The entries without those, among the first, whose files cannot be opened; each file once."""
        reasons: dict[tuple[str, bool], str] = {}
        good: list[Entry] = []
        for entry in entries:
            video = bool(entry.video)
            files = [(name, video) for name in ([entry.video] if video else entry.pictures)]
            for file in files if len(good) < limit else ():
                if file not in reasons:
                    reasons[file] = self._reason(*file)
            wrong = next(filter(None, (reasons.get(file) for file in files)), None)
            if wrong:
                self.bad.append(f"line {entry.line}: {wrong}")
            else:
                good.append(entry)
        return good

    def _reason(self, name: str, video: bool) -> str:
        try:
            if video:
                read_video(self.folder / name)
            else:
                open_picture(self.folder / name)
        except InputError as error:
            return str(error).replace(f"{self.folder}{os.sep}", "")
        return ""


def _answers(row: dict[str, Any]) -> tuple[str, ...]:
    if ("answer" in row) == ("answers" in row):
        raise ValueError("give one of answer and answers")
    given = row["answers"] if "answers" in row else [row["answer"]]
    if not isinstance(given, list) or not given:
        raise ValueError("answers must be a list with at least one answer")
    for answer in given:
        if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
            raise ValueError(f"an answer must be a text or a number, not {json.dumps(answer)}")
    return tuple(str(answer) for answer in given)
