"""docs/zoo-r-equal.md: methods at equal measured time, from what ``make zoo-r-equal`` measures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from illava.evaluation.comparison_page import FIGURES, PLOTS, draw, to_markdown
from illava.evaluation.store import write_json
from illava.io.files import replacing

from .alone import trained
from .page import FOLDER

SOURCE, PAGE = Path("out/zoo-r-equal"), Path("docs/zoo-r-equal.md")
EQUAL, PICTURES = FOLDER / "equal.json", FOLDER / "equal"
TITLE = "# Comparison of methods\n"


def page(found: dict[str, Any], plots: Sequence[str]) -> str:
    """The page of ``illava compare``, with a first paragraph."""
    text = to_markdown(found, plots)
    assert text.startswith(TITLE)
    opening = (
        "# zoo/R at equal time\n\n"
        "Written by `python -m illava_lab.benchmarks.zoo_r equal` from [`equal.json`](zoo-r/equal.json), "
        "which `make zoo-r-equal` measures. Every method has the budget with which it reaches a speed-up of "
        "the first token that was measured on this machine. Text tasks need characters, position tasks "
        f"places. Weights: {found['trained']}.\n"
    )
    return opening + text.removeprefix(TITLE).replace(f"({PLOTS}/", f"({PICTURES.relative_to(PAGE.parent)}/")


def publish(source: Path = SOURCE) -> None:
    """Copy the figures, draw the plots and write the page.

    Raises FileNotFoundError where there are none, ValueError where plots cannot be drawn.
    """
    found = json.loads((source / FIGURES).read_text(encoding="utf-8"))
    for figures in found["models"].values():
        # Every row has its options; here they stand once more.
        figures["settings"].pop("rows", None)
    found.setdefault("trained", trained())
    PICTURES.mkdir(parents=True, exist_ok=True)
    plots, hint = draw(PICTURES, found)
    if hint:
        raise ValueError(hint)
    write_json(EQUAL, found)
    with replacing(PAGE) as partial:
        partial.write_text(page(found, plots), encoding="utf-8")
