"""The user's own data: a folder with ``samples.jsonl``, one question per line.

Each line is a JSON object:

``picture`` or ``pictures`` or ``video``
    The path of an image; or a list of paths, in the order of the prompt; or the path of a video file (needs
    PyAV) or of a folder of frames, ordered by name. Paths are relative to the folder and stay inside it; an
    image may be a base64 data URL instead. Of a video with more than 32 frames, 32 evenly spaced ones are
    used. ``image`` and ``images`` are aliases of ``picture`` and ``pictures``.
``question``
    A string.
``answer`` or ``answers``
    A string or finite number; or a list of those, any of which is correct. Case, outer spaces and a final
    full stop are ignored.
``kind``
    Optional: a string to break results down by.

Instead of a question and an answer, a line may have ``conversations`` in LLaVA's format or ``messages`` in
OpenAI's, with one question and one answer (see formats.py). Empty lines and other fields are ignored::

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
"""The longest line that is read, in bytes. It may hold images."""
LISTED = 3
"""The number of invalid lines that an error lists; the others are counted."""


@dataclass(frozen=True)
class Entry:
    """One valid line."""

    line: int
    """Its number, from 1."""
    question: str
    answers: tuple[str, ...]
    pictures: tuple[str, ...] = ()
    """Paths; for an image in the line itself "data:" and a hash."""
    video: str = ""
    kind: str = ""
    offset: int = 0
    """The position of the line in the file, in bytes."""


class FolderTask:
    """The questions of a folder, validated.

    The fields and files of every line are checked; images and videos of the first ``limit`` valid lines are
    opened.

    Args:
        skip_bad: skip invalid lines, listed in ``bad``, instead of raising an error.

    Raises InputError if no line is valid and, without ``skip_bad``, if a line is invalid: with the numbers
    and reasons of the first few, and the number of the others.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int, skip_bad: bool = False) -> None:
        # Absolute, because a relative "demo/..." would name an image of illava-lab.
        self.folder = Path(folder).resolve()
        self.name = self.folder.name
        check_text("the folder's name", self.name)
        self.description = f"the questions in {folder}"
        self.bad: list[str] = []
        """Invalid lines and reasons, e.g. "line 3: no question"."""
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
        """Skip, or reject, samples that the model's processor rejects, so that a run does not fail halfway.

        Args:
            try_prompt: builds the prompt of a sample; raises InputError if that fails.

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
        """Raise InputError for invalid lines, unless they are skipped, and if no line is valid."""
        self.bad.sort(key=lambda reason: int(reason.split(":")[0].removeprefix("line ")))
        if self.bad and not self._skip_bad:
            raise InputError(
                f"{self.folder / FILE_NAME}: {first_few(self.bad)}; correct these lines or give --skip-bad"
            )
        if not self.entries:
            raise InputError(
                f"{self.folder / FILE_NAME}: no valid line; give at least one"
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
                f"{path}: cannot be read: {error.strerror or error}; the folder needs a {FILE_NAME}"
            ) from error
        return entries

    def _entry(self, line: int, piece: bytes, offset: int) -> Entry:
        """Parse a line. Raises ValueError with the reason."""
        row = _row(piece)
        question, kind = row.get("question"), row.get("kind", "")
        if not isinstance(question, str) or not question.strip():
            raise ValueError("no question; give a string")
        if not isinstance(kind, str):
            raise ValueError("kind must be a string")
        check_text("question", question)
        check_text("kind", kind)
        keys = [key for key in ("picture", "pictures", "video") if key in row]
        if len(keys) != 1:
            raise ValueError("give one of picture, pictures and video")
        paths = row[keys[0]] if keys[0] == "pictures" else [row[keys[0]]]
        if not isinstance(paths, list) or not paths:
            raise ValueError("pictures must be a list with at least one path")
        names = tuple(self._path(keys[0], path) for path in paths)
        answers = _answers(row)
        if keys[0] == "video":
            return Entry(line, question, answers, video=names[0], kind=kind, offset=offset)
        return Entry(line, question, answers, pictures=names, kind=kind, offset=offset)

    def _path(self, key: str, name: Any) -> str:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{key} must be a path, not {_short(name)}")
        if key != "video" and is_embedded(name):
            return f"data:{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:16]}"
        check_text(key, name)
        if is_url(name):
            raise ValueError(f"{name[:80]}: URLs are not supported; download the file and give its path")
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
        """The first ``limit`` entries whose files can be opened, and all later ones; opens each file once."""
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
        """Open an image of an entry, from its file or from the line. Raises InputError."""
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
    """The first few reasons, and the number of the others."""
    more = len(reasons) - LISTED
    return "; ".join(reasons[:LISTED]) + (f"; and {more:,} more" if more > 0 else "")


def _row(piece: bytes) -> dict[str, Any]:
    """A line as a dictionary with illava's field names. Raises ValueError."""
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
    answers = row["answers"] if "answers" in row else [row["answer"]]
    if not isinstance(answers, list) or not answers:
        raise ValueError("answers must be a list with at least one answer")
    for answer in answers:
        if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
            raise ValueError(f"an answer must be a string or a number, not {_short(answer)}")
        if isinstance(answer, float) and not math.isfinite(answer):
            raise ValueError(f"an answer must be a string or a finite number, not {_short(answer)}")
        check_text("answer", str(answer))
    return tuple(str(answer) for answer in answers)
