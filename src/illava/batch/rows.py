"""One row of a batch: a JSON object that asks for one answer.

A row has the shape of OpenAI's batch files::

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...]}}

or a simpler one, with ``question`` and ``picture``, ``pictures`` or ``video`` (a list of frames), or with
``messages``, and the options of a request beside them::

    {"id": "a", "picture": "cats/1.jpg", "question": "How many cats are there?", "keep": "1/9"}
    {"id": "b", "messages": [{"role": "user", "content": "What is red?"}], "max_tokens": 8}

Pictures are paths or data URLs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..serving.errors import ApiError, bad_request
from ..serving.schema import ChatRequest, read_object, request_of

PATH = "/v1/chat/completions"
PICTURES = ("picture", "pictures", "image", "images", "video")
OPTIONS = ("keep", "method", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop")
"""Fields of a request that a simple row may have."""
IGNORED = ("metadata", "answer", "answers", "kind")
"""Fields of simple rows that change no answer; the last three are those of ``illava eval``."""
LONGEST_ID = 512


class BadRow(Exception):
    """A row that cannot be answered.

    Args:
        number: the number of its line, from 1.
        name: its id, as far as it could be read.
        reason: what is wrong; it is made one line.
    """

    def __init__(self, number: int, name: str | int | None, reason: str) -> None:
        # Names of files, and messages of libraries, may have several.
        self.number, self.name, self.reason = number, name, " ".join(reason.split())
        super().__init__(self.reason)

    def to_dict(self) -> dict[str, Any]:
        """The line of the side file."""
        return {"row": self.number, "id": self.name, "error": self.reason}


def changed(number: int) -> BadRow:
    """The error for a line that is not the one whose digest was taken at the beginning of the run.

    IN was edited meanwhile, or is another file on the machine of a worker.
    """
    return BadRow(number, None, "its line is not the one that the command has read; run the command again")


@dataclass(frozen=True)
class Row:
    """A valid row, whose pictures have not been looked at."""

    number: int
    """The number of its line, from 1."""
    name: str | int | None
    """``id`` or ``custom_id``."""
    request: ChatRequest
    openai: bool
    """Whether it has the shape of OpenAI's batch files; its answer then has it too."""


def read_row(number: int, line: bytes, model: str) -> Row:
    """The row in a line. Raises BadRow.

    Args:
        model: the name of the model that answers; a body that names another one is refused.
    """
    name: str | int | None = None
    try:
        fields = read_object(line, "row")
        openai = "body" in fields
        name = _name(fields, "custom_id" if openai else "id")
        body = _body(fields, model) if openai else _simple(fields, model)
        return Row(number, name, request_of(body), openai)
    except ApiError as error:
        raise BadRow(number, name, error.message) from error


def _name(fields: dict[str, Any], key: str) -> str | int | None:
    name = fields.get(key)
    if name is None and key == "id":
        return None
    kinds = (str, int) if key == "id" else (str,)
    if isinstance(name, bool) or not isinstance(name, kinds) or len(str(name)) > LONGEST_ID:
        also = " or an integer" if key == "id" else ""
        raise bad_request(f"{key} must be a string{also} of at most {LONGEST_ID} characters")
    return name


def _body(fields: dict[str, Any], model: str) -> dict[str, Any]:
    """The body of a row of OpenAI's shape."""
    for key, only in (("method", "POST"), ("url", PATH)):
        if fields.get(key, only) != only:
            raise bad_request(f"{key} must be {only!r}")
    _refuse_others(fields, ("custom_id", "method", "url", "body"))
    body = fields["body"]
    if not isinstance(body, dict):
        raise bad_request("body must be a JSON object")
    if body.get("model", model) != model:
        raise bad_request(f"body.model is {str(body['model'])[:200]!r}, but {model!r} answers; see --name")
    if body.get("stream"):
        raise bad_request("body.stream: the answers of a batch are not streamed; leave it out")
    return {**body, "model": model}


def _simple(fields: dict[str, Any], model: str) -> dict[str, Any]:
    """The body that a simple row stands for."""
    _refuse_others(fields, ("id", "question", "messages", *PICTURES, *OPTIONS, *IGNORED))
    shown = [key for key in PICTURES if key in fields]
    if ("question" in fields) == ("messages" in fields):
        raise bad_request("give one of question, messages and body")
    if len(shown) > ("question" in fields):
        raise bad_request(f"{' and '.join(shown)}: give one of them, beside a question")
    messages = fields.get("messages")
    if "question" in fields:
        question = fields["question"]
        if not isinstance(question, str) or not question.strip():
            raise bad_request("question must be a string that is not empty")
        parts = _parts(shown[0], fields[shown[0]]) if shown else []
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
    return {"model": model, "messages": messages, **{key: fields[key] for key in OPTIONS if key in fields}}


def _parts(key: str, value: Any) -> list[dict[str, Any]]:
    """The parts of a message that show the pictures, or the video, of a simple row."""
    several = key in ("pictures", "images", "video")
    names = value if several else [value]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        kind = "a list of paths or data URLs, with one at least" if several else "a path or a data URL"
        raise bad_request(f"{key} must be {kind}")
    if key == "video":
        return [{"type": "video", "video": names}]
    return [{"type": "image_url", "image_url": {"url": name}} for name in names]


def _refuse_others(fields: dict[str, Any], known: tuple[str, ...]) -> None:
    if other := next((key for key in fields if key not in known), None):
        raise bad_request(f"{other[:100]}: there is no such field; rows can have {', '.join(known)}")
