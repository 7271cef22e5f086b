"""docs/zoo-r-equal.md and -2b.md: methods at equal time, from what ``make zoo-r-equal`` measures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illava.evaluation.comparison_page import FIGURES, PLOTS, draw, to_markdown
from illava.evaluation.store import write_json
from illava.io.files import replacing
from illava_lab.benchmarks import former
from illava_lab.real.data.task_list import group_of

from . import cost, divergence
from .alone import trained
from .choice_figures import read

MODEL = "zoo/R-448"
TITLE, HOW = "# Comparison of methods\n", "## How this was measured\n"


@dataclass(frozen=True)
class Page:
    """A page, of a run that ``illava compare`` wrote to out/``name``."""

    name: str
    title: str
    about: str

    @property
    def source(self) -> Path:
        """The folder of the run."""
        return Path("out") / self.name

    @property
    def figures(self) -> Path:
        """The file of the figures, under docs."""
        return Path("zoo-r") / f"{self.name.removeprefix('zoo-r-')}.json"

    @property
    def plots(self) -> Path:
        """The folder of the plots, under docs."""
        return self.figures.with_suffix("")


PAGES = {
    "equal": Page(
        "zoo-r-equal",
        "zoo/R at equal time",
        "Every method has the budget with which it reaches a speed-up of the first token, measured on this "
        "machine.",
    ),
    "equal-2b": Page(
        "zoo-r-equal-2b",
        "zoo/R at equal time of Qwen2-VL-2B",
        "zoo/R answers, but the time of another model counts: each budget is the one with which the same "
        "method is predicted to reach a speed-up of the first token on Qwen2-VL-2B, whose encoder takes most "
        "of that time; steps are at the same relative depths. In zoo/R the encoder takes a fifth of it. What "
        "sizes cost in attention is not predicted. illava-planned is what the "
        "[planner](planning.md#the-rule) recommends for the speed-up, which may be a smaller picture.",
    ),
}


def text_of(page: Page, found: dict[str, Any], plots: Sequence[str], costs: dict[str, Any] | None) -> str:
    """The page of ``illava compare``, with a first paragraph, divergences, and what merging itself costs."""
    text = to_markdown(found, plots)
    assert text.startswith(TITLE)
    (figures,) = found["models"].values()
    what = page.name.removeprefix("zoo-r-")
    opening = (
        f"# {page.title}\n\n"
        f"Written by `python -m illava_lab.benchmarks.zoo_r {what}` from "
        f"[`{page.figures.name}`]({page.figures}), which `make {page.name}` measures. {page.about} "
        "Text tasks need characters, position tasks places. candidate-...: "
        "`illava_lab/real/candidates.py`; former was the preset of 0.1, log the same with sizes in "
        f"attention. Trained weights (file): {found['trained']}; the model: "
        f"{figures['settings']['weights']}. {former.note(figures['rows'])}"
    ).rstrip()
    text = text.removeprefix(TITLE).replace(f"({PLOTS}/", f"({page.plots}/")
    sections = [*divergence.section(found["divergence"], found["reference"]), ""]
    sections += [] if costs is None else [*cost.section(costs), ""]
    before, how, after = text.partition(HOW)
    assert how
    return f"{opening}\n{before}" + "\n".join(sections) + f"\n{how}{after}"


def publish(page: Page, source: Path, docs: Path = Path("docs")) -> None:
    """Copy the figures, draw the plots and write the page.

    Raises FileNotFoundError where there are none, ValueError where plots cannot be drawn.
    """
    found = json.loads((source / FIGURES).read_text(encoding="utf-8"))
    settings, lines = read(source / MODEL.replace("/", "-"))
    groups = {task: group_of(task) for task in settings["tasks"]}
    for figures in found["models"].values():
        # Every row has its options; here they stand once more.
        figures["settings"].pop("rows", None)
    found["trained"] = trained()
    found["divergence"] = divergence.measure(settings, lines, groups, found["reference"])
    (docs / page.plots).mkdir(parents=True, exist_ok=True)
    plots, hint = draw(docs / page.plots, found)
    if hint:
        raise ValueError(hint)
    write_json(docs / page.figures, found)
    with replacing(docs / f"{page.name}.md") as partial:
        partial.write_text(text_of(page, found, plots, costs(page, docs)), encoding="utf-8")


def costs(page: Page, docs: Path = Path("docs")) -> Mapping[str, Any] | None:
    """What merging itself costs, on the page of zoo/R's own time, where it has been measured."""
    file = docs / "zoo-r" / cost.FILE
    own = page is PAGES["equal"] and file.exists()
    return json.loads(file.read_text(encoding="utf-8")) if own else None
