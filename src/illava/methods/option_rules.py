"""Options of :class:`~illava.Illava` that need or exclude each other: none may silently do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .encoder_scores import EQUAL_AT_FIRST

OWN_ROW = ("encoder_score", "llm_score")


OF_STAGE = {
    "encoder": ("encoder_score", "sinks", "two_depths", "complexity", "units", "placement"),
    "llm": ("llm_score", "rotary_keep"),
}
"""Options that only the steps of one stage read, or that only their survivors have."""


def check_stage(stage: str, layers: tuple[int, ...] | None, options: Mapping[str, Any]) -> None:
    """Raise ValueError for experimental ``options`` of a stage that is turned off, with ``layers`` ()."""
    given = [name for name in OF_STAGE[stage] if name in options]
    if layers == () and given:
        raise ValueError(f"{', '.join(given)} needs a step in the {stage}, but {stage}_layers is ()")


def check_together(select: str, reduce: str, proportional: str | None, options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that have no effect or no meaning beside the others."""
    score = options.get("encoder_score")
    own = [name for name in OWN_ROW if options.get(name) == "own_row"]
    spread = ("diverse", "coverage")
    rules = (
        (
            score in EQUAL_AT_FIRST and select in ("highest", "lowest"),
            f"encoder_score={score!r} gives all units the same score at first, which select={select!r} "
            "cannot rank; use select='diverse', 'coverage' or 'random'",
        ),
        (
            score == "size" and reduce != "fold",
            f"encoder_score='size' needs reduce='fold', which counts what is merged, got {reduce!r}",
        ),
        (
            # In the encoder alone, any reduction has always been allowed, so saved methods have it.
            proportional in ("llm", "both") and reduce != "fold",
            f"proportional={proportional!r} needs reduce='fold', which counts what is merged, got {reduce!r}",
        ),
        (
            proportional is not None and options.get("units") == "patches",
            "proportional needs units='whole': sizes of single patches are not kept",
        ),
        (
            bool(options.get("two_depths")) and options.get("units") == "patches",
            "two_depths needs units='whole': single patches are not compared at two depths",
        ),
        (
            bool(options.get("complexity")) and options.get("units") == "patches",
            "complexity needs units='whole': single patches have no budgets for each picture",
        ),
        (
            options.get("score_power", 1) != 1 and select not in spread,
            f"score_power needs select='diverse' or 'coverage', got {select!r}",
        ),
        (
            bool(options.get("sinks")) and select not in ("highest", *spread),
            f"sinks needs select='highest', 'diverse' or 'coverage', got {select!r}",
        ),
        (
            bool(options.get("rotary_keep")) and select != "highest",
            f"rotary_keep needs select='highest', got {select!r}",
        ),
        (
            bool(own) and select in spread,
            f"select={select!r} needs scores >= 0, but {' and '.join(own)}='own_row' can be negative",
        ),
        (
            score == "own_row" and bool(options.get("sinks")),
            "sinks needs scores >= 0, but encoder_score='own_row' can be negative",
        ),
    )
    for broken, message in rules:
        if broken:
            raise ValueError(message)


def current_proportional(fields: dict[str, Any]) -> dict[str, Any]:
    """Saved ``fields`` with ``proportional`` as it is spelled today.

    Before 0.2, True was the encoder alone; for a time it was an experimental option. Raises ValueError if it
    is given in both places.
    """
    options = fields.get("experimental", {})
    if isinstance(options, Mapping) and "proportional" in options:
        if fields.get("proportional") is not None:
            raise ValueError("proportional is given twice: as a field, and in experimental")
        rest = {name: value for name, value in options.items() if name != "proportional"}
        fields = {**fields, "proportional": options["proportional"], "experimental": rest}
    given = fields.get("proportional")
    return {**fields, "proportional": "encoder" if given else None} if isinstance(given, bool) else fields
