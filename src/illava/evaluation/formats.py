"""Lines of samples files as other tools write them, brought to the fields that illava reads.

``image`` and ``images`` are ``picture`` and ``pictures``. LLaVA's ``conversations`` and OpenAI's ``messages``
become a question and an answer where they hold one of each, with pictures before or after the question.
"""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..io.pictures import decode

Row = dict[str, Any]
PICTURES = ("picture", "pictures", "image", "images")
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
MARK = re.compile(r"<(?:image|video)>")
ONE_EACH = "a line is one question and one answer: make a line of each"
ORDER = "a picture stands inside the question, but all are shown before it: say which one in words"


def normalized(row: Row) -> Row:
    """``row`` with ``picture``, ``pictures`` or ``video``, ``question`` and ``answer``, those that it has.

    Raises ValueError saying what to convert where there is more than one question, or a picture inside it.
    """
    given = [key for key in PICTURES if key in row]
    if len(given) > 1:
        raise ValueError(f"give one of {' and '.join(given)}")
    out = {key.replace("image", "picture") if key in given else key: value for key, value in row.items()}
    if "question" in row:
        question = row["question"]
        if isinstance(question, str) and MARK.search(question):
            out["question"], marks = _without_marks("question", question)
            _check_marks("question", marks, _shown(out), out)
        return out
    for turns, role, said in (("conversations", "from", "value"), ("messages", "role", "content")):
        if turns in row:
            question, answer = _exchange(turns, row[turns], role, said)
            return _from_exchange(out, turns, question, answer)
    return out


def _exchange(name: str, turns: Any, role: str, said: str) -> tuple[Any, Any]:
    """What the user and the assistant say, as it stands there."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{name} must be a list of turns with {role} and {said}")
    roles = [ROLES.get(str(turn.get(role))) for turn in turns]
    if roles.count("user") > 1:
        raise ValueError(f"{name} has {roles.count('user')} questions, but {ONE_EACH}")
    if roles != ["user", "assistant"]:
        found = ", ".join(str(turn.get(role)) for turn in turns[:4]) or "nothing"
        raise ValueError(f"{name} must be a user's question and an assistant's answer, not {found}")
    return turns[0].get(said), turns[1].get(said)


def _from_exchange(row: Row, name: str, question: Any, answer: Any) -> Row:
    out = {key: value for key, value in row.items() if key not in ("picture", "pictures", "answers", name)}
    shown = _shown(row)
    if isinstance(question, list):
        question, found, marks = _parts(name, question)
        if found and shown:
            raise ValueError(f"{name} has pictures of its own; leave out the other ones")
        shown = shown or found
    else:
        question, marks = _without_marks(name, question)
    _check_marks(name, marks, shown, row)
    if isinstance(answer, list):
        answer = _parts(name, answer)[0]
    if shown:
        out["pictures"] = shown
    return {**out, "question": question, "answer": answer}


def _shown(row: Row) -> list[Any]:
    """The pictures of a row; null stands for none."""
    shown = row.get("picture", row.get("pictures"))
    return [] if shown is None else shown if isinstance(shown, list) else [shown]


def _check_marks(name: str, marks: int, shown: list[Any], row: Row) -> None:
    count = len(shown) or int("video" in row)
    if marks not in (0, count):
        raise ValueError(f"{name} shows {marks} pictures or videos, but the line has {count}")


def _without_marks(name: str, text: Any) -> tuple[str, int]:
    """A text without the marks of pictures before or after it, and how many those were."""
    if not isinstance(text, str):
        raise ValueError(f"{name}: the question must be a text")
    pieces = [piece.strip() for piece in MARK.split(text)]
    words = [piece for piece in pieces if piece]
    if len(words) > 1 or (words and words[0] not in (pieces[0], pieces[-1])):
        raise ValueError(f"{name}: {ORDER}")
    return words[0] if words else "", len(pieces) - 1


def _parts(name: str, parts: Sequence[Any]) -> tuple[str, list[Any], int]:
    """Text, pictures and the number of places for pictures of a message in parts."""
    texts, pictures, kinds = [], [], []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("image_url", "image"):
            url = next((part[key] for key in ("image_url", "image", "url", "path") if key in part), None)
            url = url.get("url") if isinstance(url, dict) else url
            pictures += [] if url is None else [url]
        else:
            raise ValueError(f"{name}: parts must be of type text or image_url, not {str(kind)[:40]}")
        kinds.append(kind == "text")
    # All texts in a row, at one end.
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    if changes > 1:
        raise ValueError(f"{name}: {ORDER}")
    text, marks = _without_marks(name, "\n".join(texts)) if texts else ("", 0)
    return text, pictures, marks or kinds.count(False)


def is_embedded(name: str) -> bool:
    """Whether a picture stands in the line itself, as a data URL."""
    return name[:5].lower() == "data:"


def embedded(url: str, name: str) -> Image.Image:
    """The RGB picture of a base64 data URL; errors call it ``name``.

    Raises ValueError for what is no such URL, InputError for what is no picture.
    """
    head, _, data = url.partition(",")
    if not head.lower().endswith(";base64"):
        raise ValueError(f"{name}: a data URL must be base64, as data:image/png;base64,...")
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ValueError(f"{name}: its data URL is not base64: {error}") from None
    return decode(io.BytesIO(content), name)
