"""Warnings of Python and of the libraries below, on the command line: each text once, as one line on stderr.

Level and filters stay the user's (``PYTHONWARNINGS``, ``TRANSFORMERS_VERBOSITY``); what is filtered here as
well is in :data:`HARMLESS`, with the reason.
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
"""Whose loggers have handlers of their own, which would write several lines."""
HARMLESS = {
    # A table of missing, mismatched and unexpected weights: illava.models.loading refuses the first two and warns of
    # the third, in one line each.
    "transformers.modeling_utils": re.compile(r"\w+ LOAD REPORT"),
}
"""Warnings that are left out: the logger, or the category of a Python warning, and how the text begins."""


def one_line(text: object) -> str:
    """Any text on one line that a terminal can show: spaces single, what cannot be printed as "?"."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))


class _Lines(logging.Handler):
    """Writes what is logged from the level WARNING on."""

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
        """Stand in for the libraries' own handlers. Those must have been imported already."""
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
    """Within the block, warnings and records from WARNING on are lines ``illava: warning: ...`` of stderr."""
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
    """Within :func:`one_line_warnings`: let libraries that have been imported by now write such lines too."""
    if _current:
        _current[-1].take_over()
