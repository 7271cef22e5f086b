"""Whether figures were measured with today's presets: a preset may change after a page was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from illava.methods import method_from_dict, presets


def changes(name: str, options: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which a preset that was measured with ``options`` differs: then and today.

    Args:
        name: of the preset.
        options: its ``to_dict``, of any version, with a budget.
    """
    then = method_from_dict(dict(options))
    today = presets()[name](options["keep"])
    pairs = {
        field.name: (getattr(then, field.name, None), getattr(today, field.name))
        for field in dataclasses.fields(today)
    }
    return {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}


def note(rows: Iterable[Mapping[str, Any]]) -> str:
    """A sentence on the presets among rows that are not today's; empty if there are none.

    Args:
        rows: each with a ``method`` and its ``options``, as ``illava compare`` writes them.
    """
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for row in rows:
        if row["method"] in presets() and row["options"] is not None and row["options"].get("keep"):
            found.setdefault(row["method"], {}).update(changes(row["method"], row["options"]))
    told = [
        f"`{name}` is the preset of the day it was measured, with "
        + ", ".join(
            f"`{field}={then!r}` instead of today's `{today!r}`" for field, (then, today) in some.items()
        )
        for name, some in found.items()
        if some
    ]
    return "".join(f"{sentence}. " for sentence in told).strip()
