"""The tasks of the preset's choice."""

from __future__ import annotations

import re
from pathlib import Path

from illava_lab.benchmarks.zoo_r.choice_figures import SPEEDS
from illava_lab.real.data.task_list import TASKS


def test_what_the_makefile_asks() -> None:
    text = (Path(__file__).parents[3] / "Makefile").read_text().replace("\\\n", " ")
    defined = dict(re.findall(r"^(ZOO_R_\w+) := (.*)$", text, re.MULTILINE))
    asked = defined["ZOO_R_CHOICE"].replace("$(ZOO_R_COMPARED)", defined["ZOO_R_COMPARED"]).split()
    assert len(asked) == len(set(asked))
    assert set(asked) <= set(TASKS)
    assert {"real-words", "real-receipts", "real-sroie", "real-cards-place", "real-clothing"} <= set(asked)
    recipe = text[text.index("\nzoo-r-choice:") :].split("\n\n")[0]
    assert "--tasks $(ZOO_R_CHOICE) --split val" in recipe
    assert " ".join(f"{speed}" for speed in SPEEDS) in recipe
