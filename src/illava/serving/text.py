"""The text of an answer that grows token by token: whole characters only, up to a stop sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNFINISHED = "\ufffd"
"""What a tokenizer shows for bytes that are no whole character yet."""


class Detokenizer:
    """Turns token ids into text as they come. The pieces together are the text of all ids."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self._context = self._shown = 0
        """The text of ids[_context:_shown] is out already. It is decoded again with each new id, since how an
        id reads (with a space before it or not) depends on those before it."""

    def add(self, token: int) -> str:
        """The text that one more id adds; "" while a character is incomplete."""
        self.ids.append(token)
        text = self._new()
        return "" if text.endswith(UNFINISHED) else self._show(text)

    def rest(self) -> str:
        """What is left at the end: an incomplete character, as the tokenizer shows it."""
        return self._show(self._new())

    def _new(self) -> str:
        before, after = (self._decode(self.ids[self._context : end]) for end in (self._shown, None))
        return after[len(before) :]

    def _show(self, text: str) -> str:
        if text:
            self._context, self._shown = self._shown, len(self.ids)
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(ids, **options))


class StopFinder:
    """Ends a text before the first of its stop sequences, and holds back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found = False
        self._held = ""

    def add(self, piece: str) -> str:
        """The text that can be shown after one more piece. Sets ``found`` at a stop sequence."""
        if self.found:
            return ""
        held = self._held + piece
        starts = [start for stop in self.stops if (start := held.find(stop)) >= 0]
        if starts:
            self.found, self._held = True, ""
            return held[: min(starts)]
        longest = min(len(held), max(map(len, self.stops), default=1) - 1)
        kept = next((n for n in range(longest, 0, -1) if self._may_begin(held[-n:])), 0)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept]

    def rest(self) -> str:
        """What was held back, at the end of a text without a stop sequence."""
        held, self._held = self._held, ""
        return held

    def _may_begin(self, ending: str) -> bool:
        return any(stop.startswith(ending) for stop in self.stops)
