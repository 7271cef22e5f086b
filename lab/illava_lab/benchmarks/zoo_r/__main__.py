"""``python -m illava_lab.benchmarks.zoo_r WHAT``, the parts of ``make zoo-r-figures`` and the like."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from illava.errors import InputError
from illava.evaluation.comparison_page import FIGURES, draw
from illava.evaluation.store import write_json
from illava.io.files import replacing
from illava_lab.real.candidates import candidates

from . import (
    alone,
    choice_page,
    choose,
    contest,
    cost,
    curves,
    curves_page,
    equal,
    limits,
    page,
    times,
    when_not,
)

WHEN_NOT, LIMITS = Path("docs/when-not.md"), page.FOLDER / "limits.json"
CURVES, CURVES_PAGE = page.FOLDER / "curves.json", Path("docs/zoo-r-curves.md")
CHOICE, CHOICE_SOURCE = Path("docs/zoo-r-choice.md"), Path("out/zoo-r-choice/zoo-R-448")
SOURCES = (Path("out/zoo-r-figures"), Path("out/zoo-r-figures-336"))
PRESET = "illava-best"
"""It may be chosen again."""
TASKS = ("real-clothing", "real-grocery", "real-signs", "real-collage-place", "real-collage-exists")


def publish(sources: Sequence[Path], folder: Path = page.FOLDER, target: Path = page.PAGE) -> None:
    """Copy the figures of ``illava compare`` in ``sources``, draw the plots and write the page.

    Raises FileNotFoundError where there are none, ValueError where plots cannot be drawn.
    """
    found = _compared(sources)
    for figures in found["models"].values():
        # Every row has its options; here they stand once more.
        figures["settings"].pop("rows", None)
    found.setdefault("trained", alone.trained())
    folder.mkdir(parents=True, exist_ok=True)
    plots, hint = draw(folder, found)
    if hint:
        raise ValueError(hint)
    write_json(folder / page.COMPARISON, found)
    with replacing(target) as partial:
        partial.write_text(page.page(page.read(folder), plots), encoding="utf-8")


def _compared(sources: Sequence[Path]) -> page.Figures:
    """The comparisons in several folders, each of other models, as one."""
    parts = [json.loads((source / FIGURES).read_text(encoding="utf-8")) for source in sources]
    return {**parts[0], "models": {name: found for part in parts for name, found in part["models"].items()}}


def time_again(sources: Sequence[Path], count: int) -> None:
    """Time the compared rows in float32, all models in turn, into page.FOLDER.

    Raises FileNotFoundError where there are none.
    """
    measured = {
        name: times.measure(name, figures, sources[0] / "float32" / Path(name).name, count)
        for name, figures in _compared(sources)["models"].items()
    }
    write_json(page.FOLDER / page.TIMES, measured)


def publish_choice(source: Path, target: Path = CHOICE) -> None:
    """Write the page of the choice from what ``illava compare --speedup`` wrote for one model.

    Raises FileNotFoundError where there is nothing, ValueError where nothing can be chosen.
    """
    settings, lines = choose.read(source)
    names = [PRESET, *candidates()]
    found = choice_page.page_lines(choose.choose(settings, lines, names), names)
    with replacing(target) as partial:
        partial.write_text("\n".join([*choice_page.opening(settings), "", *found]) + "\n", encoding="utf-8")


def publish_curves(tasks: Sequence[str], each: int, dtype: str) -> None:
    """Measure the curves and write their page."""
    write_json(CURVES, curves.measure(tasks, each, Path("out/zoo-r-curves"), dtype=dtype))
    with replacing(CURVES_PAGE) as partial:
        partial.write_text(curves_page.page(json.loads(CURVES.read_text(encoding="utf-8"))), encoding="utf-8")


def publish_when_not(target: Path = WHEN_NOT) -> None:
    """Write the page from figures in page.FOLDER.

    Raises FileNotFoundError where some are missing, ValueError where they are of different weights.
    """
    parts = [page.FOLDER / page.COMPARISON, LIMITS, page.FOLDER / page.CONTEST]
    comparison, limited, contested = (json.loads(part.read_text(encoding="utf-8")) for part in parts)
    with replacing(target) as partial:
        partial.write_text(when_not.page(comparison, limited, contested), encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Run the command, or say in one line what is missing."""
    parser = argparse.ArgumentParser(prog="python -m illava_lab.benchmarks.zoo_r")
    parser.add_argument(
        "what",
        choices=(
            *("plain", "times", "contest", "limits", "page", "when-not", "choose", "curves", "cost"),
            *equal.PAGES,
        ),
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="for plain, contest and curves")
    parser.add_argument(
        "--each", type=int, default=20, help="for plain, contest and curves: questions a task"
    )
    parser.add_argument("--time", type=int, default=3, help="for times: prompts")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="for curves")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--source", type=Path, nargs="+", help="what illava compare wrote")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        if options.what == "contest":
            write_json(page.FOLDER / page.CONTEST, contest.run(options.tasks, options.each))
        elif options.what == "plain":
            folder = Path("out/zoo-r-plain")
            write_json(page.FOLDER / page.ALONE, alone.measure(options.tasks, options.each, folder))
        elif options.what in equal.PAGES:
            asked = equal.PAGES[options.what]
            equal.publish(asked, options.source[0] if options.source else asked.source)
        elif options.what == "cost":
            write_json(page.FOLDER / cost.FILE, cost.measure())
        elif options.what == "curves":
            publish_curves(options.tasks, options.each, options.dtype)
        elif options.what == "limits":
            write_json(LIMITS, limits.run())
        elif options.what == "when-not":
            publish_when_not()
        elif options.what == "times":
            time_again(options.source or SOURCES, options.time)
        elif options.what == "choose":
            publish_choice(options.source[0] if options.source else CHOICE_SOURCE)
        else:
            sources = options.source or SOURCES
            publish(sources if sources[0].exists() else [page.FOLDER])
    except FileNotFoundError as error:
        commands = {"choose": "zoo-r-choice", "curves": "zoo-r-curves"}
        commands |= {what: asked.name for what, asked in equal.PAGES.items()}
        command = commands.get(options.what, "zoo-r-figures")
        raise SystemExit(f"{error.filename} is missing: run make {command}") from None
    except (InputError, ValueError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
