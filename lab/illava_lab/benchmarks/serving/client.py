"""Sends one request, streamed, and again if it was not answered but can be; the outcome is recorded."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

PATH = "/v1/chat/completions"
RETRIED = frozenset({429, 500, 502, 503, 504})
"""Statuses after which the same request may be answered. 400 and its like would come again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0


@dataclass
class Outcome:
    """What became of one request. Times are seconds since the beginning of the run."""

    number: int
    due: float
    """When it was to be sent. All waiting counts from here: a slow server must not slow the clock down."""
    sent: float = 0.0
    first: float | None = None
    """When the first piece of text of the answer that was completed came."""
    end: float | None = None
    tokens: int = 0
    visual: tuple[int, int] | None = None
    """Visual tokens before and after merging."""
    accepted: bool = False
    """Whether the server began to answer at some attempt."""
    troubles: list[str] = field(default_factory=list)
    """Why attempts failed, in order."""
    refused: bool = False
    """Whether the last trouble is one that would come again."""
    text: str = ""

    @property
    def answered(self) -> bool:
        """Whether the whole answer came."""
        return self.end is not None

    @property
    def kind(self) -> str:
        """ "answered", "retried" (answered at a later attempt), "refused", or "lost"."""
        if self.answered:
            return "retried" if self.troubles else "answered"
        return "refused" if self.refused else "lost"

    @property
    def ttft(self) -> float | None:
        """Seconds from when it was due to the first text (time to first token)."""
        return None if self.first is None or not self.answered else self.first - self.due

    @property
    def latency(self) -> float | None:
        """Seconds from when it was due to the end of the answer."""
        return None if self.end is None else self.end - self.due

    def record(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {**asdict(self), "kind": self.kind}


class Trouble(Exception):
    """An attempt that failed.

    Args:
        retried: whether another may succeed.
        pause: seconds that the server asks to wait for.
    """

    def __init__(self, said: str, retried: bool, pause: float | None = None) -> None:
        super().__init__(said)
        self.retried, self.pause = retried, pause


class Client:
    """Sends requests to one server. Use it as an asynchronous context manager.

    Args:
        url: the server's address without a path; any server of OpenAI's chat API.
        began: the beginning of the run on the monotonic clock.
        patience: seconds from when a request was due in which it is tried again; 0: never again.
        key: the server's API key.
    """

    def __init__(self, url: str, began: float, patience: float = 60.0, key: str | None = None) -> None:
        self.began, self.patience = began, patience
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            limits=limits,
            trust_env=False,
            timeout=httpx.Timeout(300, connect=10),
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @property
    def now(self) -> float:
        """Seconds since the beginning of the run."""
        return time.monotonic() - self.began

    async def ask(self, number: int, body: dict[str, Any], due: float | None = None) -> Outcome:
        """Send a request until it is answered, refused, or time is up."""
        outcome = Outcome(number, self.now if due is None else due)
        pause = FIRST_PAUSE
        while True:
            try:
                await self._attempt(body, outcome)
                return outcome
            except Trouble as trouble:
                outcome.troubles.append(str(trouble))
                outcome.refused = not trouble.retried
                # With some chance in it, so that those who failed together do not come again together.
                wait = max(pause, trouble.pause or 0.0) * random.uniform(1.0, 1.5)
                if not trouble.retried or self.now + wait > outcome.due + self.patience:
                    return outcome
            await asyncio.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _attempt(self, body: dict[str, Any], outcome: Outcome) -> None:
        outcome.sent, outcome.first, outcome.text = self.now, None, ""
        try:
            async with self._http.stream("POST", PATH, json=body) as response:
                if response.status_code != 200:
                    raise await _refusal(response)
                outcome.accepted = True
                if not await self._read(response, outcome):
                    raise Trouble("the stream broke off", retried=True)
        except httpx.HTTPError as error:
            raise Trouble(type(error).__name__, retried=True) from error
        except (ValueError, KeyError, TypeError) as error:
            # A connection that ends in the middle of an event. It must not end a run of hours.
            raise Trouble("a broken event in the stream", retried=True) from error
        outcome.end = self.now

    async def _read(self, response: httpx.Response, outcome: Outcome) -> bool:
        """Read a stream; whether it came to its end."""
        async for line in response.aiter_lines():
            data = line.removeprefix("data:").strip()
            if data == line or not data:
                continue
            if data == "[DONE]":
                return True
            event = json.loads(data)
            if "error" in event:
                raise Trouble(f"error in the stream: {event['error'].get('message')}", retried=True)
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    outcome.first = self.now if outcome.first is None else outcome.first
                    outcome.text += text
            if used := event.get("usage"):
                outcome.tokens = used["completion_tokens"]
                if visual := used.get("visual_tokens"):
                    outcome.visual = (visual["before"], visual["after"])
        return False


async def _refusal(response: httpx.Response) -> Trouble:
    await response.aread()
    try:
        said = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = response.text[:200]
    after = response.headers.get("retry-after", "")
    pause = float(after) if after.isdecimal() else None
    return Trouble(f"{response.status_code}: {said}", response.status_code in RETRIED, pause)
