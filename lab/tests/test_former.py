"""Pages say which presets they measured are not today's."""

from __future__ import annotations

from dataclasses import replace

from illava_lab.benchmarks import former

from illava import FastV, Illava


def row(name: str, method: Illava | FastV) -> dict[str, object]:
    return {"method": name, "options": method.to_dict()}


def test_a_preset_of_then_is_named_with_what_changed() -> None:
    then = replace(Illava.best(1 / 9), proportional=None, recycle=0.1)
    assert former.changes("illava-best", then.to_dict()) == {
        "recycle": (0.1, 0.05),
        "proportional": (None, "both"),
    }
    told = former.note(
        [row("illava-best", then), row("fastv", FastV(keep=0.5)), {"method": "plain", "options": None}]
    )
    assert told == (
        "`illava-best` is the preset of the day it was measured, with `recycle=0.1` instead of today's "
        "`0.05`, `proportional=None` instead of today's `'both'`."
    )


def test_nothing_is_said_of_todays() -> None:
    assert former.note([row("illava-best", Illava.best(1 / 3)), row("illava", Illava(keep=1 / 3))]) == ""


def test_files_of_earlier_versions_are_read() -> None:
    old = {**Illava.best(1 / 9).to_dict(), "proportional": False, "seed": 0, "positions": "original"}
    del old["version"], old["experimental"]
    assert former.changes("illava-best", old) == {"proportional": (None, "both")}
