"""Anyone's data: a folder with ``samples.jsonl``, one question a line.

Each line is a JSON object:

``picture`` or ``pictures`` or ``video``
    A picture's path; or a list of them, shown in that order; or the path of a video file (needs PyAV) or of
    a folder of frames, which are shown in the order of their names. Paths are relative to the folder and
    stay inside it; a picture may be a base64 data URL instead. Of a longer video 32 frames are shown, evenly
    spaced. ``image`` and ``images`` are other names for pictures.
``question``
    A text.
``answer`` or ``answers``
    A text or finite number; or a list of those, any of which counts as right. Compared without regard to
    case, outer spaces and a final full stop.
``kind``
    Optional: a text to break results down by.

In place of question and answer there may be ``conversations`` as LLaVA's data has them, or ``messages`` as
OpenAI's, that hold one of each (see formats.py). Empty lines and other fields are ignored::

    {"picture": "cats/1.jpg", "question": "How many cats are there?", "answers": ["2", "two"]}
    {"pictures": ["a.png", "b.png"], "question": "Which picture is brighter?", "answer": "the second"}
    {"video": "clips/7", "question": "Which way does it go?", "answer": "left", "kind": "motion"}
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError
from ..io.files import protect
from ..io.pictures import open_picture
from ..io.texts import check_text, is_url
from ..io.video import read_video
from .formats import embedded, is_embedded, normalized
from .samples import Sample

FILE_NAME = "samples.jsonl"
MAX_LINE = 20_000_000
"""Bytes; a longer line is not read. Pictures may stand in it."""
TOLD = 3
"""Complaints that are written out; the others are counted."""


@dataclass(frozen=True)
class Entry:
    """One good line."""

    line: int
    """From 1."""
    question: str
    answers: tuple[str, ...]
    pictures: tuple[str, ...] = ()
    """Paths; of a picture in the line itself "data:" and a hash."""
    video: str = ""
    kind: str = ""
    offset: int = 0
    """Of the line in the file, in bytes."""


class FolderTask:
    """The questions of a folder, checked.

    Every line is checked for its form and its files; pictures and videos are opened for the first
    ``limit`` good lines.

    Args:
        skip_bad: leave bad lines out, listed in ``bad``, instead of refusing the folder.

    Raises InputError when there is no good line, and, without ``skip_bad``, for bad ones: the first by line
    number and reason, and how many there are more.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int, skip_bad: bool = False) -> None:
        # Absolute, as "demo/..." alone would be one of the pictures that ship with illava.
        self.folder = Path(folder).resolve()
        self.name = self.folder.name
        check_text("the folder's name", self.name)
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
            pictures = tuple(self._open(entry, i) for i in range(len(entry.pictures)))
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
                f"{self.folder / FILE_NAME}: {first_few(self.bad)}; mend these, or use --skip-bad"
            )
        if not self.entries:
            raise InputError(
                f"{self.folder / FILE_NAME}: there is no line to use"
                + (f"; {first_few(self.bad)}" if self.bad else "")
            )

    def _read(self) -> list[Entry]:
        path, entries, offset = self.folder / FILE_NAME, [], 0
        protect(self.folder, path)
        try:
            with path.open("rb") as file:
                number = 0
                while piece := file.readline(MAX_LINE + 1):
                    number += 1
                    self._digest.update(piece)
                    if len(piece) > MAX_LINE:
                        raise InputError(f"{path}: line {number} has more than {MAX_LINE} bytes")
                    try:
                        if piece.strip():
                            entries.append(self._entry(number, piece, offset))
                    except ValueError as error:
                        self.bad.append(f"line {number}: {error}")
                    offset += len(piece)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read: {error.strerror or error}; a folder of questions needs {FILE_NAME}"
            ) from error
        return entries

    def _entry(self, line: int, piece: bytes, offset: int) -> Entry:
        """Raises ValueError saying what is wrong."""
        row = _row(piece)
        question, kind = row.get("question"), row.get("kind", "")
        if not isinstance(question, str) or not question.strip():
            raise ValueError("no question, which must be a text")
        if not isinstance(kind, str):
            raise ValueError("kind must be a text")
        check_text("question", question)
        check_text("kind", kind)
        shown = [key for key in ("picture", "pictures", "video") if key in row]
        if len(shown) != 1:
            raise ValueError("give one of picture, pictures and video")
        given = row[shown[0]] if shown[0] == "pictures" else [row[shown[0]]]
        if not isinstance(given, list) or not given:
            raise ValueError("pictures must be a list with at least one path")
        names = tuple(self._path(shown[0], name) for name in given)
        answers = _answers(row)
        if shown[0] == "video":
            return Entry(line, question, answers, video=names[0], kind=kind, offset=offset)
        return Entry(line, question, answers, pictures=names, kind=kind, offset=offset)

    def _path(self, key: str, name: Any) -> str:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{key} must be a path, not {_short(name)}")
        if key != "video" and is_embedded(name):
            return f"data:{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:16]}"
        check_text(key, name)
        if is_url(name):
            raise ValueError(f"{name[:80]}: URLs are not read; download it, and give its path")
        if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == "..":
            raise ValueError(f"{name}: paths must be relative to the folder and stay inside it")
        try:
            place = self.folder / name
            protect(place)
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
            for i, file in enumerate(files) if len(good) < limit else ():
                if file not in reasons:
                    reasons[file] = self._reason(entry, i)
            wrong = next(filter(None, (reasons.get(file) for file in files)), None)
            if wrong:
                self.bad.append(f"line {entry.line}: {wrong}")
            else:
                good.append(entry)
        return good

    def _open(self, entry: Entry, number: int) -> Image.Image:
        """A picture of an entry, from its file or from the line. Raises InputError."""
        name = entry.pictures[number]
        if not is_embedded(name):
            return open_picture(self.folder / name)
        try:
            with (self.folder / FILE_NAME).open("rb") as file:
                file.seek(entry.offset)
                row = _row(file.readline(MAX_LINE + 1))
            urls = row["pictures"] if "pictures" in row else [row["picture"]]
            return embedded(urls[number], f"picture {number + 1} of the line")
        except (OSError, ValueError, LookupError) as error:
            raise error if isinstance(error, InputError) else InputError(str(error)) from error

    def _reason(self, entry: Entry, number: int) -> str:
        try:
            if entry.video:
                read_video(self.folder / entry.video)
            else:
                self._open(entry, number)
        except InputError as error:
            return str(error).replace(f"{self.folder}{os.sep}", "")
        return ""


def first_few(reasons: Sequence[str]) -> str:
    """The first three of many complaints, and how many there are more."""
    more = len(reasons) - TOLD
    return "; ".join(reasons[:TOLD]) + (f"; and {more:,} more" if more > 0 else "")


def _row(piece: bytes) -> dict[str, Any]:
    """A line with illava's own fields. Raises ValueError."""
    try:
        row = json.loads(piece)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return normalized(row)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _answers(row: dict[str, Any]) -> tuple[str, ...]:
    if ("answer" in row) == ("answers" in row):
        raise ValueError("give one of answer and answers")
    given = row["answers"] if "answers" in row else [row["answer"]]
    if not isinstance(given, list) or not given:
        raise ValueError("answers must be a list with at least one answer")
    for answer in given:
        if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
            raise ValueError(f"an answer must be a text or a number, not {_short(answer)}")
        if isinstance(answer, float) and not math.isfinite(answer):
            raise ValueError(f"an answer must be a text or a finite number, not {_short(answer)}")
        check_text("answer", str(answer))
    return tuple(str(answer) for answer in given)
