"""The body of a request to ``/v1/chat/completions``: what of OpenAI's fields is used, ignored and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..io.shares import parse_share
from .errors import ApiError, bad_request

MOST_MESSAGES, MOST_PARTS, MOST_STOPS, LONGEST_STOP = 256, 256, 4, 256
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of OpenAI's API that are not supported, with the values besides null that ask for nothing."""
IGNORED = ("metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user")
"""Fields that change no answer."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(_Strict):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    """Where a picture is: a data URL, or http(s) on an allowed host."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None
    """Ignored: the model's processor decides the size."""


class ImagePart(_Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class VideoPart(_Strict):
    """A video as its frames in order, each a URL as in :class:`ImageUrl`. OpenAI's API has no such part."""

    type: Literal["video"]
    video: list[str] = Field(min_length=1)


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class Message(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: list[Part] = Field(min_length=1, max_length=MOST_PARTS)
    name: str | None = None
    """Ignored."""
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    audio: None = None
    annotations: list[Any] | None = None
    """Like those before it, part of an answer that a client may send back as a turn."""

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    @model_validator(mode="after")
    def _pictures_of_users(self) -> Message:
        if self.role != "user" and any(part.type != "text" for part in self.content):
            raise ValueError(f"a message of the role {self.role} can hold text only")
        return self


class StreamOptions(_Strict):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool | None = None
    """Ignored: nothing is obfuscated."""


class ChatRequest(_Strict):
    """The body of a request to ``/v1/chat/completions``."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: list[str] | None = Field(None, max_length=MOST_STOPS)
    keep: float | str | None = None
    """Share of the visual tokens left at the end, as a number or as "1/9"."""
    method: str | None = None
    """A method or preset of illava."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @field_validator("stop")
    @classmethod
    def _stops(cls, stop: list[str] | None) -> list[str] | None:
        if any(not 0 < len(text) <= LONGEST_STOP for text in stop or ()):
            raise ValueError(f"a stop sequence must have 1 to {LONGEST_STOP} characters")
        return stop

    @property
    def most_tokens(self) -> int | None:
        """The limit on new tokens, under either of its names; the smaller one if both are given."""
        given = [n for n in (self.max_tokens, self.max_completion_tokens) if n is not None]
        return min(given) if given else None

    @property
    def share(self) -> float | None:
        """``keep`` as a number in (0, 1]; None if the request names none. Raises ApiError."""
        share = None if self.keep is None else parse_share(self.keep)
        if self.keep is not None and share is None:
            said = 'keep must be a number above 0 and up to 1, or a fraction such as "1/9"'
            raise bad_request(said, "keep")
        return share

    def sources(self) -> Iterator[tuple[str, str]]:
        """(kind, URL) of all pictures ("image") and frames ("frame"), in order."""
        for message in self.messages:
            for part in message.content:
                if isinstance(part, ImagePart):
                    yield "image", part.image_url.url
                elif isinstance(part, VideoPart):
                    yield from (("frame", url) for url in part.video)


def parse(body: bytes) -> ChatRequest:
    """The request in a JSON body. Raises ApiError."""
    return request_of(read_object(body, "body"))


def read_object(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object. ``what`` is its name in errors. Raises ApiError."""
    try:
        # json.loads(bytes) takes UTF-16 and UTF-32 too, and surrogates encoded as if they were characters.
        fields = json.loads(text.decode("utf-8-sig"))
        if SURROGATE.search(text):
            # Pairs are whole characters. Lone ones have no UTF-8, which tokenizers and responses need.
            json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise bad_request(f"the {what} holds half an emoji, which is no whole character") from None
    except UnicodeDecodeError:
        raise bad_request(f"the {what} is not UTF-8") from None
    except (ValueError, RecursionError):
        raise bad_request(f"the {what} is not valid JSON") from None
    if not isinstance(fields, dict):
        raise bad_request(f"the {what} must be a JSON object")
    return fields


def request_of(fields: dict[str, Any]) -> ChatRequest:
    """The request that has these fields. Raises ApiError."""
    fields = dict(fields)
    for name, neutral in NEUTRAL.items():
        value = fields.pop(name, None)
        if value is not None and value not in neutral:
            tail = f"; leave it out or set it to {json.dumps(neutral[0])}" if neutral else "; leave it out"
            raise bad_request(f"{name} is not supported{tail}", name, "unsupported_parameter")
    for name in IGNORED:
        fields.pop(name, None)
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> ApiError:
    """The first of the errors in one line, without the values, which may be pictures."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return bad_request(f"{place}: there is no such field", place, "unknown_parameter")
    said = first["msg"].removeprefix("Value error, ")
    return bad_request(f"{place}: {said[:1].lower()}{said[1:]}" if place else said, place or None)
