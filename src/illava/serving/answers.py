"""The JSON objects of answers, whole and streamed, as OpenAI's API has them."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from .jobs import Done


class Answers:
    """Makes the objects of one answer, which share their id, time and model.

    Args:
        with_usage: whether a stream ends with the usage.
    """

    def __init__(self, model: str, prompt_tokens: int, with_usage: bool = False) -> None:
        self.prompt_tokens, self.with_usage = prompt_tokens, with_usage
        self._shared = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, text: str, done: Done) -> dict[str, Any]:
        """The object of a whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.reason}
        return {
            **self._shared,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(self.prompt_tokens, done),
        }

    def chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        """An event of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._event([choice], None)

    def last(self, done: Done) -> bytes:
        """The events that end a streamed answer."""
        events = self.chunk({}, done.reason)
        if self.with_usage:
            events += self._event([], usage(self.prompt_tokens, done))
        return events + b"data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]], used: dict[str, Any] | None) -> bytes:
        extra = {"usage": used} if self.with_usage else {}
        return event({**self._shared, "object": "chat.completion.chunk", "choices": choices, **extra})


def usage(prompt_tokens: int, done: Done) -> dict[str, Any]:
    """The tokens of a prompt, its visual tokens before and after merging, and those of its answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": done.tokens,
        "total_tokens": prompt_tokens + done.tokens,
        "visual_tokens": {"before": done.visual_before, "after": done.visual_after},
    }


def event(value: dict[str, Any]) -> bytes:
    """A server-sent event with a JSON object."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
