"""Shows warnings of Python and of other libraries on the command line: each once, as one line on stderr.

Levels and filters are those of the user (``PYTHONWARNINGS``, ``TRANSFORMERS_VERBOSITY``). Only the warnings
in :data:`HARMLESS` are left out in addition.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

LIBRARIES = ("transformers", "huggingface_hub")
"""Libraries whose loggers have their own handlers, which would write several lines."""
HARMLESS = {
    # A table of missing, mismatched and unexpected weights. illava.models.loading refuses the first two and
    # warns about the third, in one line each.
    "transformers.modeling_utils": re.compile(r"\w+ LOAD REPORT"),
}
"""Warnings that are left out: the logger or warning category, and a pattern for the start of the text."""


def one_line(text: object) -> str:
    """A text as one printable line: whitespace as single spaces, unprintable characters as "?"."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))


class _Lines(logging.Handler):
    """Writes log records of level WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: set[str] = set()
        self.replaced: list[tuple[logging.Logger, list[logging.Handler]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.say(record.levelname.lower(), record.name, record.getMessage())

    def say(self, kind: str, source: str, text: str) -> None:
        line = one_line(re.sub(r"\x1b\[[0-9;]*m", "", text))
        harmless = HARMLESS.get(source)
        if line in self.seen or (harmless is not None and harmless.match(line)):
            return
        self.seen.add(line)
        typer.echo(f"illava: {kind}: {line}", err=True)

    def take_over(self) -> None:
        """Replace the handlers of libraries that are already imported."""
        for logger in map(logging.getLogger, LIBRARIES):
            if self not in logger.handlers:
                self.replaced.append((logger, logger.handlers[:]))
                logger.handlers[:] = [self]

    def give_back(self) -> None:
        for logger, handlers in self.replaced:
            logger.handlers[:] = handlers


_current: list[_Lines] = []


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Within the block, warnings and log records become lines ``illava: warning: ...`` on stderr."""
    lines, root, before = _Lines(), logging.getLogger(), warnings.showwarning

    def show(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        lines.say("warning", category.__name__, str(message))

    warnings.showwarning = show
    root.addHandler(lines)
    _current.append(lines)
    try:
        yield
    finally:
        _current.remove(lines)
        root.removeHandler(lines)
        lines.give_back()
        warnings.showwarning = before


def take_over() -> None:
    """Within :func:`one_line_warnings`, apply it to the libraries that have been imported meanwhile."""
    if _current:
        _current[-1].take_over()
