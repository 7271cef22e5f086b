"""What the page of the preset's choice tells besides its table, which test_choose.py covers."""

from __future__ import annotations

from typing import Any

from illava_lab.benchmarks.zoo_r import choice_page
from illava_lab.benchmarks.zoo_r.__main__ import CHOICE
from illava_lab.benchmarks.zoo_r.choose import REFERENCE

import illava


def test_what_followed_is_told_of_the_run_with_the_former_preset_alone() -> None:
    def settings(where: str) -> dict[str, Any]:
        options = {**illava.Illava.best(0.2).to_dict(), "where": where}
        return {"rows": {"plain": {"options": None}, f"{REFERENCE} 2x": {"options": options}}}

    assert choice_page.outcome(settings("late")) == []
    told, _ = choice_page.outcome(settings("middle"))
    assert told in CHOICE.read_text(encoding="utf-8")
