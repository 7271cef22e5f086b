"""Convert lines in the formats of other tools to the fields that illava reads.

``image`` and ``images`` become ``picture`` and ``pictures``. LLaVA's ``conversations`` and OpenAI's
``messages`` become a question and an answer if they hold one of each, with images before or after the
    question.
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
ONE_EACH = "a line has one question and one answer; write one line per question"
ORDER = "an image is inside the question, but illava puts images before it; refer to the image in words"


def normalized(row: Row) -> Row:
    """``row`` with illava's names of the fields that it has.

    Raises ValueError if there is more than one question, or an image inside it.
    """
    keys = [key for key in PICTURES if key in row]
    if len(keys) > 1:
        raise ValueError(f"give one of {' and '.join(keys)}")
    out = {key.replace("image", "picture") if key in keys else key: value for key, value in row.items()}
    if "question" in row:
        question = row["question"]
        if isinstance(question, str) and MARK.search(question):
            out["question"], marks = _without_marks("question", question)
            _check_marks("question", marks, _pictures(out), out)
        return out
    for turns, role, content in (("conversations", "from", "value"), ("messages", "role", "content")):
        if turns in row:
            question, answer = _exchange(turns, row[turns], role, content)
            return _from_exchange(out, turns, question, answer)
    return out


def _exchange(name: str, turns: Any, role: str, content: str) -> tuple[Any, Any]:
    """The contents of the user's and the assistant's turn."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{name} must be a list of turns with {role} and {content}")
    roles = [ROLES.get(str(turn.get(role))) for turn in turns]
    if roles.count("user") > 1:
        raise ValueError(f"{name} has {roles.count('user')} questions, but {ONE_EACH}")
    if roles != ["user", "assistant"]:
        found = ", ".join(str(turn.get(role)) for turn in turns[:4]) or "nothing"
        raise ValueError(f"{name} must be a user's question and an assistant's answer, not {found}")
    return turns[0].get(content), turns[1].get(content)


def _from_exchange(row: Row, name: str, question: Any, answer: Any) -> Row:
    out = {key: value for key, value in row.items() if key not in ("picture", "pictures", "answers", name)}
    pictures = _pictures(row)
    if isinstance(question, list):
        question, found, marks = _parts(name, question)
        if found and pictures:
            raise ValueError(f"{name} holds images; leave out the other images of the line")
        pictures = pictures or found
    else:
        question, marks = _without_marks(name, question)
    _check_marks(name, marks, pictures, row)
    if isinstance(answer, list):
        answer = _parts(name, answer)[0]
    if pictures:
        out["pictures"] = pictures
    return {**out, "question": question, "answer": answer}


def _pictures(row: Row) -> list[Any]:
    """The images of a row; null means none."""
    pictures = row.get("picture", row.get("pictures"))
    return [] if pictures is None else pictures if isinstance(pictures, list) else [pictures]


def _check_marks(name: str, marks: int, pictures: list[Any], row: Row) -> None:
    count = len(pictures) or int("video" in row)
    if marks not in (0, count):
        raise ValueError(f"{name} has {marks} marks of images or videos, but the line has {count} of those")


def _without_marks(name: str, text: Any) -> tuple[str, int]:
    """A text without the image marks before or after it, and their number."""
    if not isinstance(text, str):
        raise ValueError(f"{name}: the question must be a string")
    pieces = [piece.strip() for piece in MARK.split(text)]
    words = [piece for piece in pieces if piece]
    if len(words) > 1 or (words and words[0] not in (pieces[0], pieces[-1])):
        raise ValueError(f"{name}: {ORDER}")
    return words[0] if words else "", len(pieces) - 1


def _parts(name: str, parts: Sequence[Any]) -> tuple[str, list[Any], int]:
    """The text, the images and the number of image parts of a message."""
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
    # The text parts must be contiguous, at the start or at the end.
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    if changes > 1:
        raise ValueError(f"{name}: {ORDER}")
    text, marks = _without_marks(name, "\n".join(texts)) if texts else ("", 0)
    return text, pictures, marks or kinds.count(False)


def is_embedded(name: str) -> bool:
    """Whether the name of an image is a data URL, i.e. the image itself."""
    return name[:5].lower() == "data:"


def embedded(url: str, name: str) -> Image.Image:
    """Decode the RGB image of a base64 data URL; errors call it ``name``.

    Raises ValueError for any other URL, InputError if the content is not an image.
    """
    head, _, data = url.partition(",")
    if not head.lower().endswith(";base64"):
        raise ValueError(f"{name}: a data URL must be base64, such as data:image/png;base64,...")
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ValueError(f"{name}: its data URL is not base64: {error}") from None
    return decode(io.BytesIO(content), name)
