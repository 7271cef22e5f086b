"""Why image-text-to-text models without an entry have none: the lines of ``families/unsupported.txt``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

TABLE = "unsupported.txt"


@dataclass(frozen=True)
class Stage:
    """Whether tokens can merge in one part of a model."""

    state: Literal["yes", "no", "open"]
    """"open": an entry could support it, but there is none."""
    reason: str = ""
    """Why merging is not possible ("no"), or what an entry would have to handle ("open")."""

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}" if self.reason else self.state


@dataclass(frozen=True)
class Stages:
    """The two parts of a model in which tokens can merge."""

    encoder: Stage
    llm: Stage

    def __str__(self) -> str:
        if self.encoder == self.llm:
            return self.encoder.reason
        return f"image encoder: {self.encoder}; LLM: {self.llm}"


@cache
def unsupported() -> dict[str, Stages]:
    """The lines of the table by model type. Raises ValueError for a line that cannot be read."""
    text = files(f"{__package__}.families").joinpath(TABLE).read_text(encoding="utf-8")
    out: dict[str, Stages] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        name, *cells = (cell.strip() for cell in line.split("|"))
        if name in out or len(cells) not in (1, 2):
            raise ValueError(f"{TABLE}, line {number}: expected a new model type and one or two reasons")
        stages = [_stage(cell, number) for cell in cells]
        out[name] = Stages(stages[0], stages[-1])
    return out


def _stage(cell: str, number: int) -> Stage:
    state, _, reason = cell.partition(": ")
    if state == "no" and reason:
        return Stage("no", reason)
    if state == "open" and reason:
        return Stage("open", reason)
    raise ValueError(f"{TABLE}, line {number}: expected 'no: REASON' or 'open: WHAT', got {cell!r}")
